/**
 * A hostile sandbox beside a polite one: while it floods everything that both share, the host process and the polite
 * sandbox's resolver, gateway and model answer as before. It learns nothing of the other's prompts, and its VMM, once
 * taken over, harms no other.
 *
 *     hostile (own process) ──► bridge, agent's port, gateway, resolver ──┐ one event loop:
 *     polite  (own process) ──► bridge, resolver, /v1/health ─────────────┴ this process
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../src/base/clock.ts';
import { ignore } from '../../src/base/ignore.ts';
import { silentLog } from '../../src/base/log.ts';
import { median, percentile } from '../../src/base/statistics.ts';
import { MIB } from '../../src/base/units.ts';
import { createBridge } from '../../src/inference/bridge/bridge.ts';
import { listenForGuest } from '../../src/machine/guest/link.ts';
import type { Actor } from '../actor.ts';
import { ALLOWED, DIR_PREFIX } from '../map.ts';
import { FLOODS, type FloodTargets } from '../neighbor-floods.ts';
import type { ProbePlan, ProbeTimes } from '../neighbor-probe.ts';
import { eventually, Notes, type Proof } from '../proof.ts';
import type { LeasedGuest, World } from '../world.ts';
import { burn, LoopTurns } from './loop-turns.ts';
import { type ModelTries, tryModels } from './model-tries.ts';
import { tryTakenOverVmm } from './vmm-tries.ts';

/** Maximum 99th percentile of blocked event loop time, milliseconds of CPU time. */
const HELD_P99_MS_MAX = 50;
/** The 99th percentile ignores the longest turn. On a busy machine, several bodies may be checked in that one. */
const HELD_MS_MAX = 250;
/**
 * Maximum median of answers, milliseconds; on a machine that is slow without any flood, a multiple of the median then.
 */
const P50_MS_MAX = 250;
const P50_RATIO_MAX = 10;
const ROUNDS = 60;
const BLOCKED_ROUNDS = 20;
/** Slower than the resolver's limit for one sandbox. */
const GAP_MS = 40;
/** Minimum number of large bodies checked while the event loop is measured: fewer would show nothing. */
const CHECKED_MIN = 4;
/** Total for any number of hostile sandboxes: bodies, and the heaps of two threads. */
const GROWTH_MIB_MAX = 256 + 2 * 512;
const HOSTILE_PORTS = 4;
const BLOCK_MS = 100;
const BLOCK_EVERY_MS = 300;
const MEMORY_EVERY_MS = 50;

export interface NeighborOptions {
  /** Larger bodies are checked in threads. Default: the product's. */
  readonly loopBytesMax?: number;
  /** Default: all. */
  readonly floods?: readonly string[];
  /** What tests take away from the bridge. */
  readonly models?: ModelTries;
  /** For tests: vsock devices take any memory. */
  readonly takesAnyMemory?: boolean;
}

export async function proveNeighbors(world: World, options: NeighborOptions = {}): Promise<Proof> {
  const notes = new Notes();
  const policy = { mode: 'allowlist', allow: [ALLOWED.name] } as const;
  const [hostile, polite] = [await world.guest(policy), await world.guest(policy)];
  await using host = await openHost(hostile, polite, options);
  await hostile.guest.name(ALLOWED.name);
  const plan: ProbePlan = {
    ...host.plan,
    resolver: polite.guest.gateway,
    name: ALLOWED.name,
    rounds: ROUNDS,
    gapMs: GAP_MS,
  };
  const ask = (rounds = plan.rounds): Promise<ProbeTimes> => polite.guest.actor.ask('probe', { ...plan, rounds });
  const calm = await ask();
  noteCalm(notes, calm);
  await noteBlocked(notes, () => ask(BLOCKED_ROUNDS));
  const targets = { ...host.targets, resolver: hostile.guest.gateway };
  for (const kind of options.floods ?? Object.keys(FLOODS))
    await tryFlood(notes, { kind, hostile, targets, ask: () => ask(), calm });
  await tryModels(notes, host.dir, options.models);
  await tryTakenOverVmm(notes, options.takesAnyMemory);
  return notes.proof('neighbors');
}

interface Try {
  readonly kind: string;
  readonly hostile: LeasedGuest;
  readonly targets: FloodTargets;
  readonly ask: () => Promise<ProbeTimes>;
  readonly calm: ProbeTimes;
}

async function tryFlood(notes: Notes, { kind, hostile, targets, ask, calm }: Try): Promise<void> {
  const { actor } = hostile.guest;
  const before = rssMib();
  using turns = new LoopTurns();
  using memory = new Peak();
  await actor.ask('flood', { ...targets, kind });
  const done = async (): Promise<number> => sumOf(await actor.ask('flooded'));
  // More than the refusals, which come first.
  await eventually(async () => {
    const { 'status 429': _, ...others } = await actor.ask<Record<string, number>>('flooded');
    return sumOf(others) > 0;
  });
  const begun = await done();
  const times = await ask();
  if (kind === 'bodies') await noteChecked(notes, actor);
  const during = (await done()) - begun;
  const outcomes = await actor.ask<Record<string, number>>('endFlood');
  const seen = Object.entries(outcomes).map(([outcome, count]) => `${count} ${outcome}`);
  const what = `a flood of ${kind}`;
  notes.note(`control: ${what} goes on meanwhile`, 'more than 0', seen.join(', '), during > 0);
  noteHeld(notes, `${what}: the event loop is held`, turns);
  noteTimes(notes, `${what}: health`, times.health, calm.health);
  noteTimes(notes, `${what}: names of the polite sandbox`, times.names, calm.names);
  noteTimes(notes, `${what}: model of the polite sandbox`, times.models, calm.models);
  const [failure = 'none'] = times.failures;
  notes.same(`${what}: requests of the polite sandbox that fail`, 'none', failure);
  const growth = Math.max(0, memory.mib - before);
  const most = `at most ${GROWTH_MIB_MAX} MiB`;
  const grown = `${growth.toFixed(0)} MiB`;
  notes.note(`${what}: memory of the host process grows by`, most, grown, growth <= GROWTH_MIB_MAX);
}

/** Waits until enough bodies were checked to their end, and refused for their unknown model. */
async function noteChecked(notes: Notes, actor: Actor): Promise<void> {
  let checked = 0;
  const isEnough = await eventually(async () => {
    const counts = await actor.ask<Record<string, number>>('flooded');
    checked = counts['status 400'] ?? 0;
    return checked >= CHECKED_MIN;
  });
  const what = 'control: large bodies are checked meanwhile';
  notes.note(what, `at least ${CHECKED_MIN}`, `${checked}`, isEnough);
}

function noteCalm(notes: Notes, { health, names, models, failures }: ProbeTimes): void {
  const isAnswered = failures.length === 0 && health.length > 0;
  const seen = isAnswered
    ? `p50/p99 in ms: health ${text(health)}, names ${text(names)}, model ${text(models)}`
    : `failed: ${failures[0]}`;
  notes.note('control: without a flood, all is answered', 'all', seen, isAnswered);
}

/** Shows that a blocked event loop is detected. */
async function noteBlocked(notes: Notes, ask: () => Promise<ProbeTimes>): Promise<void> {
  using turns = new LoopTurns();
  const timer = setInterval(() => burn(BLOCK_MS), BLOCK_EVERY_MS);
  const { health, names } = await ask();
  clearInterval(timer);
  notes.note(
    `control: an event loop that is held for ${BLOCK_MS} ms at a time is seen`,
    `p99 over ${HELD_P99_MS_MAX} ms`,
    `p99 ${turns.p99.toFixed(1)} ms; health ${text(health)}, names ${text(names)}`,
    turns.p99 > HELD_P99_MS_MAX,
  );
}

function noteHeld(notes: Notes, what: string, { p99, longest }: LoopTurns): void {
  notes.note(
    what,
    `p99 at most ${HELD_P99_MS_MAX} ms of CPU time, longest at most ${HELD_MS_MAX} ms`,
    `p99 ${p99.toFixed(1)} ms, longest ${longest.toFixed(1)} ms`,
    p99 <= HELD_P99_MS_MAX && longest <= HELD_MS_MAX,
  );
}

function noteTimes(notes: Notes, what: string, times: readonly number[], calm: readonly number[]): void {
  const most = Math.max(P50_MS_MAX, P50_RATIO_MAX * (median(calm) ?? Number.NaN));
  const isFast = (median(times) ?? Number.NaN) <= most;
  notes.note(what, `p50 at most ${most.toFixed(0)} ms`, `p50/p99 ${text(times)} ms`, isFast);
}

class Peak implements Disposable {
  mib = rssMib();
  readonly #timer = setInterval(() => {
    this.mib = Math.max(this.mib, rssMib());
  }, MEMORY_EVERY_MS);

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

interface Host extends AsyncDisposable {
  /** For sockets. */
  readonly dir: string;
  readonly plan: Pick<ProbePlan, 'healthPath' | 'bridgePath'>;
  readonly targets: Omit<FloodTargets, 'resolver'>;
}

/** The parts of a daemon on its event loop, besides the networks of the world. */
async function openHost(hostile: LeasedGuest, polite: LeasedGuest, { loopBytesMax }: NeighborOptions): Promise<Host> {
  const stack = new AsyncDisposableStack();
  const dir = await mkdtemp(join(tmpdir(), DIR_PREFIX));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  const clock = systemClock;
  // In the process of the internet.
  const target = { name: 'model', baseUrl: `http://${ALLOWED.address}/v1` };
  const bridge = createBridge({
    upstream: async () => target,
    clock,
    log: silentLog,
    ...(loopBytesMax === undefined ? {} : { checker: { loopBytesMax } }),
  });
  stack.defer(() => bridge.close());
  const policy = { allowModels: ['known'] };
  const bridgePath = join(dir, 'polite');
  await bridge.attach({ sandboxId: polite.id, socketPath: bridgePath, policy });
  const bridgePaths: string[] = [];
  for (let index = 0; index < HOSTILE_PORTS; index += 1) {
    const socketPath = join(dir, `hostile-${index}`);
    const sandboxId = index === 0 ? hostile.id : `${hostile.id}-${index}`;
    await bridge.attach({ sandboxId, socketPath, policy });
    bridgePaths.push(socketPath);
  }
  const agentPath = await linkAgent(stack, join(dir, 'v'), hostile.id);
  const healthPath = join(dir, 'health');
  const health = createServer((_request, response) => response.end('{"status":"ok"}'));
  stack.defer(() => void health.close());
  await new Promise<void>((resolve) => health.listen(healthPath, resolve));
  return {
    dir,
    plan: { healthPath, bridgePath },
    targets: { bridgePaths, agentPath, name: ALLOWED.name, webAddress: ALLOWED.address },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

/** An agent that has confirmed. @returns the path of its port */
async function linkAgent(stack: AsyncDisposableStack, channelPath: string, sandboxId: string): Promise<string> {
  const listener = await listenForGuest({
    channelPath,
    identity: { sandboxId, hostname: 'hostile', env: {}, limits: {} },
    helloTimeoutMs: 10_000,
    clock: systemClock,
    entropy: () => randomBytes(64),
    log: silentLog,
  });
  stack.defer(() => listener.close());
  const path = `${channelPath}_1024`;
  const agent = connect(path);
  agent.on('error', (error) => ignore(error, 'the proof has ended'));
  stack.defer(() => void agent.destroy());
  agent.write(`${JSON.stringify(HELLO)}\n`);
  await once(agent, 'data');
  agent.write('{"type":"ready","problems":[]}\n');
  await listener.ready();
  return path;
}

const HELLO = {
  type: 'hello',
  protocol: 1,
  agent: '0',
  python: '3',
  timings: { kernelToInitMs: null, initToAgentMs: null, agentToHelloMs: 1 },
  overlay: 'none',
  cgroup: false,
};

function text(times: readonly number[]): string {
  return [50, 99].map((percent) => percentile(times, percent)?.toFixed(1) ?? 'none').join('/');
}

function sumOf(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((sum, each) => sum + each, 0);
}

const rssMib = (): number => process.memoryUsage.rss() / MIB;
