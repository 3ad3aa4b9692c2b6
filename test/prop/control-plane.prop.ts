/**
 * Whatever is asked of sandboxes, in whatever order and whatever fails. First one after another, against a
 * naive model of what each is; then all at once. No error is without a code, and when all are removed
 * nothing is left.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CodedError } from '../../src/base/errors.ts';
import type { SandboxInfo } from '../../src/sandbox/contract/control.ts';
import type { NetworkOptions } from '../../src/sandbox/contract/network-spec.ts';
import { FakeHost } from '../support/fake-host.ts';
import { requireNothing } from '../support/fake-leftovers.ts';
import type { Phase } from '../support/fake-script.ts';

/** `disk`, `memory`: paused to there. */
type Kept = 'running' | 'memory' | 'disk' | 'ended';

interface Modelled {
  readonly id: string;
  kept: Kept;
  /** What its program remembers. */
  memory: string;
}

/** The more often, the more there is to go wrong. */
const ASKS = [
  'create',
  'remember',
  'pause-memory',
  'remove',
  'remove-snapshot',
  'die',
  'resume',
  'resume',
  'go-on',
  'go-on',
  'snapshot',
  'snapshot',
  'give-network',
  'give-network',
  'take-network',
  'fork',
  'fork',
  'pause-disk',
  'pause-disk',
  'pause-disk',
] as const;
type Ask = (typeof ASKS)[number];

const PHASES: readonly Phase[] = [
  'workspace',
  'listen',
  'bridge',
  'fill-memory',
  'copy-disk',
  'start',
  'hello',
  'update',
  'settle',
  'unplug',
  'save-state',
  'keep-memory',
  'keep-disk',
  'commit',
  'pause',
  'resume',
  'plug',
  'template',
  'network',
  'lease',
  'plug-nic',
  'unplug-nic',
  'withdraw-nic',
  'return-nic',
];
/** A VM that can not go on after a save is given up. */
const DEADLY: readonly Phase[] = ['resume', 'plug', 'hello', 'return-nic'];
const NETWORK: NetworkOptions = { mode: 'allowlist', allow: ['a.example'] };

const step = fc.record({
  ask: fc.constantFrom(...ASKS),
  which: fc.nat(1000),
  trouble: fc.option(fc.record({ phase: fc.constantFrom(...PHASES), how: fc.constantFrom('fail', 'die') })),
  /** Turns of the event loop until the next is asked, where they are asked at once. */
  pause: fc.nat(6),
});
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

const steps = fc.array(step, { minLength: 1, maxLength: 25, size: 'max' });

class Model {
  readonly sandboxes: Modelled[] = [];
  /** What the program in each remembers, by the snapshot's id. */
  readonly snapshots = new Map<string, string>();
  readonly #host: FakeHost;
  /** Requests run one at a time; otherwise an answer may show a concurrent change. */
  readonly #isAlone: boolean;

  constructor(host: FakeHost, isAlone: boolean) {
    this.#host = host;
    this.#isAlone = isAlone;
  }

  /** A sandbox that the step is about; undefined: it needs none, or there is none. */
  subject({ ask, which }: Step): Modelled | undefined {
    const needsNone = ask === 'create' || ask === 'go-on' || ask === 'remove-snapshot';
    return needsNone ? undefined : this.sandboxes[which % Math.max(1, this.sandboxes.length)];
  }

  /** Notes what came of it. Rejects as that does. */
  async ask(step: Step): Promise<void> {
    const { which } = step;
    const { control } = this.#host;
    const one = this.subject(step);
    const id = one?.id ?? '';
    const become = (kept: Kept): void => void (one === undefined || Object.assign(one, { kept }));
    const [snapshot = '', memory = ''] = [...this.snapshots][which % this.snapshots.size] ?? [];
    const asks: Record<Ask, () => Promise<void>> = {
      create: async () => {
        const network = which % 3 === 0 ? NETWORK : null;
        const made = await control.create({ boot: which % 2 === 0, network });
        this.#add(made, made.origin === 'boot' ? '' : 'of the template');
      },
      'go-on': async () => {
        const network = which % 3 === 0 ? NETWORK : null;
        this.#add(await control.create({ snapshot, network }), memory);
      },
      'give-network': async () => {
        const { network } = await control.update(id, { network: NETWORK });
        if (this.#isAlone) expect(network).not.toBeNull();
        become('running');
      },
      'take-network': async () => {
        const { network } = await control.update(id, { network: null });
        if (this.#isAlone) expect(network).toBeNull();
        become('running');
      },
      remember: async () => {
        await (await this.#host.guest(id)).remember(`it ${which}`);
        if (one !== undefined) one.memory = `it ${which}`;
        become('running');
      },
      'pause-memory': () => control.pause(id, 'memory').then(() => become('memory')),
      'pause-disk': () => control.pause(id, 'disk').then(() => become('disk')),
      resume: () => control.resume(id).then(() => become('running')),
      snapshot: async () => {
        this.snapshots.set((await control.snapshot(id)).id, one?.memory ?? '');
      },
      fork: async () => {
        const forks = await control.fork(id, { count: 1 + (which % 3) });
        for (const fork of forks) if (fork.ok) this.#add(fork.sandbox, one?.memory ?? '');
        if (step.trouble === null) expect(forks.filter(({ ok }) => !ok)).toEqual([]);
      },
      remove: () => control.remove(id).then(() => become('ended')),
      'remove-snapshot': async () => {
        await control.removeSnapshot(snapshot);
        this.snapshots.delete(snapshot);
      },
      die: async () => {
        for (const vm of this.#host.vms()) if (vm.id === id) vm.die();
        if (one?.kept !== 'disk') become('ended');
      },
    };
    await asks[step.ask]();
  }

  #add({ id }: SandboxInfo, memory: string): void {
    this.sandboxes.push({ id, kept: 'running', memory });
  }
}

/** Undefined: it is to be done. */
function refusalOf({ ask }: Step, one: Kept | undefined, snapshots: number): string | undefined {
  if (ask === 'create' || ask === 'die') return undefined;
  if (ask === 'go-on' || ask === 'remove-snapshot') return snapshots === 0 ? 'not_found' : undefined;
  if (one === undefined) return 'not_found';
  if (one === 'ended') return 'gone';
  const isPaused = ask === 'pause-memory' ? one !== 'running' : ask === 'pause-disk' && one === 'disk';
  return isPaused ? 'not_ready' : undefined;
}

/** Its code; undefined: it was done. What was injected may come through as it is. */
async function codeOf(work: Promise<void>): Promise<string | undefined> {
  try {
    await work;
    return undefined;
  } catch (error) {
    if (error instanceof CodedError) return error.code;
    if (error instanceof Error && error.message.endsWith(' failed')) return 'injected';
    throw error;
  }
}

function plan(host: FakeHost, { trouble }: Step): void {
  if (trouble?.how === 'fail') host.script.fail(trouble.phase);
  if (trouble?.how === 'die') host.script.die(trouble.phase);
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
}

const keptOf = ({ status, pausedTo }: SandboxInfo): string => pausedTo ?? status;

/** Nothing is under way, and of whom has died that is known. */
async function quiet(host: FakeHost): Promise<void> {
  for (;;) {
    const alive = new Set(host.vms().flatMap((vm) => (vm.isAlive() ? [vm.id] : [])));
    const all = await host.control.list();
    const isQuiet = all.every((info) => {
      const needsVm = keptOf(info) === 'running' || keptOf(info) === 'memory';
      const isAtRest = info.status === 'running' || info.status === 'paused';
      return isAtRest && needsVm === alive.has(info.id as never);
    });
    if (isQuiet) return;
    await turns(1);
  }
}

/** What it may be after a step that something has disturbed. */
function possible(step: Step, one: Modelled, before: Kept | undefined): readonly string[] {
  const { phase, how } = step.trouble ?? { phase: 'template', how: 'fail' };
  return [
    one.kept,
    before ?? one.kept,
    ...(how === 'die' || DEADLY.includes(phase) ? ['ended'] : []),
    // It ran for the save, and can not be paused again; or it was resumed for what then failed.
    ...(phase === 'pause' || RESUMING.includes(step.ask) ? ['running'] : []),
  ];
}

/** For a paused sandbox. */
const RESUMING: readonly Ask[] = ['remember', 'give-network', 'take-network'];

/** A guest has a card if its sandbox has a network, and each network belongs to one that runs. */
async function requireNetworks(host: FakeHost): Promise<void> {
  let held = 0;
  for (const { id, status, network } of await host.control.list()) {
    if (status !== 'running') continue;
    expect(host.vm(id).nic?.isPlugged ?? false).toBe(network !== null);
    if (network !== null) held += 1;
  }
  expect((await host.holdings())['networks'] ?? 0).toBeGreaterThanOrEqual(held);
}

async function requireModel(host: FakeHost, model: Model): Promise<void> {
  for (const { id, kept, memory } of model.sandboxes) {
    expect(keptOf(await host.control.get(id))).toBe(kept);
    if (kept === 'running') expect(await (await host.guest(id)).recall()).toBe(memory);
  }
  await requireNetworks(host);
  const living = model.sandboxes.flatMap(({ id, kept }) => (kept === 'ended' ? [] : [id]));
  expect((await host.control.list()).map(({ id }) => id).sort()).toEqual(living.sort());
  const snapshots = (await host.control.snapshots()).map(({ id }) => id);
  expect(snapshots.sort()).toEqual([...model.snapshots.keys()].sort());
}

async function takeStep(host: FakeHost, model: Model, step: Step): Promise<void> {
  const before = new Map(model.sandboxes.map(({ id, kept }) => [id, kept]));
  const expected = refusalOf(step, model.subject(step)?.kept, model.snapshots.size);
  plan(host, step);
  const planned = host.script.unused.length;
  const doing = codeOf(model.ask(step));
  await host.passTime(doing);
  await host.passTime(quiet(host));
  const isDisturbed = host.script.unused.length < planned;
  host.script.forget();
  if (!isDisturbed) expect(await doing).toBe(expected);
  for (const one of model.sandboxes) {
    const found = keptOf(await host.control.get(one.id)) as Kept;
    if (isDisturbed) expect(possible(step, one, before.get(one.id))).toContain(found);
    if (isDisturbed) one.kept = found;
  }
  await requireModel(host, model);
}

describe('control plane', () => {
  it('one after another: each sandbox is as the model says, or has ended by the injected fault', async () => {
    await fc.assert(
      fc.asyncProperty(steps, async (all) => {
        await using host = await FakeHost.open();
        const model = new Model(host, true);
        await model.ask(FIRST);
        for (const one of all) await takeStep(host, model, one);
        await requireNothing(host);
      }),
      { numRuns: RUNS },
    );
  });

  it('all at once: every request is answered, living sandboxes work, and nothing is left', async () => {
    await fc.assert(
      fc.asyncProperty(steps, async (all) => {
        await using host = await FakeHost.open({ concurrency: 2 });
        await host.control.setPool({ min: 1, max: 3 });
        const model = new Model(host, false);
        for (let made = 0; made < 3; made++) await model.ask(FIRST);
        const asked: Promise<unknown>[] = [];
        for (const one of all) {
          plan(host, one);
          // Some requests are invalid by then; they only have to be refused.
          asked.push(codeOf(model.ask({ ...one, trouble: one.trouble ?? NO_TROUBLE })));
          await turns(one.pause);
        }
        await host.passTime(Promise.all(asked));
        host.script.forget();
        await host.passTime(quiet(host));
        for (const { id } of await host.control.list()) {
          await host.control.resume(id);
          expect(await (await host.guest(id)).recall()).toEqual(expect.any(String));
        }
        await requireNothing(host);
      }),
      { numRuns: RUNS },
    );
  });
});

/** Seven hundred have found no more. */
const RUNS = 40;
/** So that there is something to ask of. */
const FIRST: Step = { ask: 'create', which: 0, trouble: null, pause: 0 };
const NO_TROUBLE = { phase: 'template', how: 'fail' } as const;
