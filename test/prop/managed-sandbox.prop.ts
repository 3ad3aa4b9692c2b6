/**
 * Any interleaving of changes of a sandbox, of deaths of its VM and of the host's shutdown: fast-check's scheduler
 * orders the requests and every phase of the fake world. Only legal transitions happen, each sandbox ends at most
 * once, each request is answered, and nothing is left.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CodedError } from '../../src/base/errors.ts';
import type { SandboxStatus } from '../../src/sandbox/contract/control.ts';
import { MANAGED_TRANSITIONS, STATUS, type StateKind } from '../../src/sandbox/plane/managed-state.ts';
import { FakeHost } from '../support/fake-host.ts';

const REQUESTS = [
  'create',
  'pause to memory',
  'pause to disk',
  'resume',
  'snapshot',
  'fork',
  'update',
  'kill',
  'VM death',
] as const;
type RequestName = (typeof REQUESTS)[number];

const request = fc.record({ name: fc.constantFrom(...REQUESTS), which: fc.nat(100) });
/** The host shuts down in one case of four. */
const closes = fc.nat(3).map((n) => n === 0);
const SANDBOXES_AT_FIRST = 2;
/** Of the fake clock, each 100 ms. The longest limit of an operation is a minute. */
const TICKS_MAX = 10_000;
const RUNS = 60;

/** Every pair of statuses that the table allows to follow each other. */
const LEGAL: ReadonlySet<string> = new Set(
  Object.entries(MANAGED_TRANSITIONS).flatMap(([from, row]) =>
    Object.values(row).map((to) => `${STATUS[from as StateKind]} → ${STATUS[to as StateKind]}`),
  ),
);

/** The statuses of each sandbox, in order; a new one runs. */
class History {
  readonly #statuses = new Map<string, SandboxStatus[]>();
  /** Statuses after the event that is to be the last. */
  readonly #late: string[] = [];

  constructor({ control }: FakeHost) {
    control.onChange(({ id, status }) => {
      const ends = control.recentEvents.list().filter((event) => event.type === 'end' && event.sandbox === id);
      if (ends.length > 0 && status !== 'ended') this.#late.push(`${id} ${status}`);
      if (ends.length !== 1 && status === 'ended') this.#late.push(`${id} ${ends.length} ends`);
      const seen = this.#statuses.get(id) ?? [];
      if (seen.at(-1) !== status) seen.push(status);
      this.#statuses.set(id, seen);
    });
  }

  get ids(): readonly string[] {
    return [...this.#statuses.keys()];
  }

  requireLegal(): void {
    expect(this.#late).toEqual([]);
    for (const statuses of this.#statuses.values()) {
      expect(statuses[0]).toBe('running');
      const steps = statuses.slice(1).map((status, at) => `${statuses[at]} → ${status}`);
      expect(steps.filter((step) => !LEGAL.has(step))).toEqual([]);
      expect(statuses.filter((status) => status === 'ended').length).toBeLessThanOrEqual(1);
    }
  }
}

function perform(host: FakeHost, name: RequestName, id: string): Promise<unknown> {
  const { control } = host;
  const actions: Record<RequestName, () => Promise<unknown>> = {
    create: () => control.create({}),
    'pause to memory': () => control.pause(id, 'memory'),
    'pause to disk': () => control.pause(id, 'disk'),
    resume: () => control.resume(id),
    snapshot: () => control.snapshot(id),
    fork: () => control.fork(id, { count: 2 }),
    update: () => control.update(id, { diskLimits: { opsPerSecond: 100 }, timeoutMs: null }),
    kill: () => control.remove(id),
    'VM death': async () => {
      for (const vm of host.vms()) if (vm.id === id) vm.die();
    },
  };
  return actions[name]();
}

/** A refusal is an answer; a failed assertion is not. */
async function answer(work: Promise<unknown>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!(error instanceof CodedError)) throw error;
  }
}

/** Lets time pass until `work` settles. @throws when it hangs */
async function withinTime(host: FakeHost, work: Promise<unknown>, pending: Set<string>) {
  let isSettled = false;
  const settled = work.finally(() => {
    isSettled = true;
  });
  for (let tick = 0; !isSettled; tick++) {
    if (tick > TICKS_MAX) throw new Error(`these hang: ${[...pending].join(', ')}`);
    // Slower than the real files and database beneath, so that limits are rarely reached.
    await new Promise((resolve) => setTimeout(resolve, 1));
    host.clock.advance(100);
  }
  await settled;
}

describe('ManagedSandbox', () => {
  it('any interleaving: legal transitions, one end, an answer to each request, nothing left', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.scheduler(),
        fc.array(request, { minLength: 1, maxLength: 14 }),
        closes,
        async (scheduler, requests, isClosed) => {
          await using host = await FakeHost.open({ concurrency: 2 });
          const { control, script } = host;
          const history = new History(host);
          for (let n = 0; n < SANDBOXES_AT_FIRST; n++) await control.create({});

          script.onStep = (phase) => scheduler.schedule(Promise.resolve(), phase);
          const pending = new Set<string>();
          const begin = async (name: string, act: () => Promise<unknown>): Promise<void> => {
            pending.add(name);
            await scheduler.schedule(Promise.resolve(), name);
            return await answer(act()).finally(() => pending.delete(name));
          };
          const asked = requests.map(({ name, which }, at) =>
            begin(`${name} ${at}`, () => {
              const { ids } = history;
              return perform(host, name, ids[which % ids.length] ?? '');
            }),
          );
          if (isClosed) asked.push(begin('close', () => control.close()));
          await withinTime(host, scheduler.waitFor(Promise.all(asked)), pending).finally(() => {
            script.onStep = undefined;
          });
          const rest = async (): Promise<void> => {
            // The VM of one may just have died.
            for (const { id } of await control.list()) await answer(control.remove(id));
            for (const { id } of await control.snapshots()) await control.removeSnapshot(id);
            await control.close();
          };
          pending.add('cleanup');
          await withinTime(host, scheduler.waitFor(rest()), pending);

          history.requireLegal();
          for (const id of history.ids) {
            expect(await control.get(id)).toMatchObject({ id, status: 'ended' });
          }
          expect(await control.list()).toEqual([]);
          expect(await host.holdings()).toEqual({});
          await expect.poll(() => host.stored()).toEqual({ files: 0, staged: 0, trash: 0, snapshots: 0 });
        },
      ),
      { numRuns: RUNS },
    );
  });
});
