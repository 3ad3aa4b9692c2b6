/**
 * Whatever is asked of sandboxes with a timeout, and whatever their guests and VMMs never answer or refuse: none runs
 * later than its deadline and the grace of a pause. It is paused or gone, or its VM is gone and it waits only for our
 * own files.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CodedError } from '../../src/base/errors.ts';
import { PAUSE_GRACE_MS } from '../../src/sandbox/plane/lifetime.ts';
import { FakeHost } from '../support/fake-host.ts';
import type { Phase } from '../support/fake-script.ts';

const TIMEOUT_MS = 10_000;
const STEP_MS = 2000;
const RUNS = 20;

/** Not `kill`: a VMM that outlives SIGKILL is beyond us. Not `commit`: our own store, which nothing of a guest delays. */
const PHASES: readonly Phase[] = [
  'hello',
  'update',
  'settle',
  'pause',
  'resume',
  'plug',
  'unplug',
  'save-state',
  'keep-memory',
  'keep-disk',
  'start',
  'listen',
  'copy-disk',
];

const ACTIONS = [
  'pause to memory',
  'pause to disk',
  'resume',
  'snapshot',
  'fork',
  'extend',
  'VM death',
  'wait',
] as const;
type Action = (typeof ACTIONS)[number];

const world = fc.record({
  onTimeout: fc.constantFrom('kill' as const, 'pause' as const),
  trouble: fc.record({
    phase: fc.constantFrom(...PHASES),
    how: fc.constantFrom('hangs', 'fails', 'hangs once', 'fails once'),
  }),
  /** Each with the steps of time before it. */
  actions: fc.array(fc.tuple(fc.constantFrom(...ACTIONS), fc.nat(6)), { maxLength: 8 }),
});

async function passMs(host: FakeHost, ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += STEP_MS) {
    host.clock.advance(STEP_MS);
    // The files and the database beneath are real.
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

function perform(host: FakeHost, action: Action, id: string): Promise<unknown> {
  const { control } = host;
  const actions: Record<Action, () => Promise<unknown>> = {
    'pause to memory': () => control.pause(id, 'memory'),
    'pause to disk': () => control.pause(id, 'disk'),
    resume: () => control.resume(id),
    snapshot: () => control.snapshot(id),
    fork: () => control.fork(id, { count: 1, timeoutMs: TIMEOUT_MS }),
    extend: () => control.update(id, { timeoutMs: TIMEOUT_MS }),
    'VM death': async () => {
      for (const vm of host.vms()) if (vm.id === id) vm.die();
    },
    wait: async () => undefined,
  };
  return actions[action]();
}

/** Returns how to end it: what hangs fails then. */
function interfere(host: FakeHost, { phase, how }: { phase: Phase; how: string }): () => void {
  const end = Promise.withResolvers<never>();
  end.promise.catch(() => undefined);
  let times = how.endsWith('once') ? 1 : Number.POSITIVE_INFINITY;
  host.script.onStep = async (reached) => {
    if (reached !== phase || times === 0) return;
    times -= 1;
    if (how.startsWith('fails')) throw new Error(`${phase} refused`);
    await end.promise;
  };
  return () => {
    host.script.onStep = undefined;
    end.reject(new Error(`${phase} refused`));
  };
}

describe('LocalControlPlane', () => {
  it('no sandbox runs later than its deadline and the grace', async () => {
    await fc.assert(
      fc.asyncProperty(world, async ({ onTimeout, trouble, actions }) => {
        const host = await FakeHost.open();
        const { control } = host;
        const { id } = await control.create({ boot: true, timeoutMs: TIMEOUT_MS, onTimeout });
        const stop = interfere(host, trouble);
        for (const [action, steps] of actions) {
          perform(host, action, id).catch((error: unknown) => {
            if (!(error instanceof CodedError) && !String(error).includes('refused')) throw error;
          });
          await passMs(host, steps * STEP_MS);
        }
        await passMs(host, 2 * (TIMEOUT_MS + PAUSE_GRACE_MS));
        const late = async (): Promise<readonly string[]> =>
          (await control.list())
            .filter(({ status }) => status !== 'paused')
            // A restore has the time limits of a start, which this world lacks.
            .filter(({ status, pausedTo }) => status !== 'resuming' || pausedTo !== 'disk')
            .filter(({ id, status }) => status !== 'ending' || host.vms().some((vm) => vm.id === id))
            .map(({ status, endsAtMs, origin }) => `${origin} ${status} ${endsAtMs}`);
        // What the deadline has ordered may still wait for the real files.
        await expect.poll(late, { timeout: 5000 }).toEqual([]);
        stop();
        await host[Symbol.asyncDispose]();
      }),
      { numRuns: RUNS },
    );
  });
});
