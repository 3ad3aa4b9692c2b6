/**
 * Floods each interface of a live daemon with the heaviest valid and wrong requests, as a tenant and without a key,
 * while another tenant asks for `/v1/health`.
 */
import { readFileSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { Worker } from 'node:worker_threads';
import { sleep } from '../../src/base/clock.ts';
import { modulePath } from '../../src/base/module-path.ts';
import { ProofError } from '../errors.ts';
import { eventually, Notes, type Proof } from '../proof.ts';
import type { JailContext } from '../proof-runtime.ts';
import { type Daemon, openDaemon } from './daemon.ts';
import { floodTry, type Round, type Sample } from './flood-verdict.ts';
import { FLOOD_KINDS, type FloodKind, type FloodPlan, SANDBOX_FLOODS } from './flood-worker.ts';

const SAMPLES = 100;
const GAP_MS = 20;
const ROUNDS_MAX = 3;
const STATUSES = 1000;
const WEBHOOKS = 32;
/** Answers before the measurement: each thread makes its bodies first. */
const BEGUN = 4;

interface FloodsContext extends JailContext {
  /** For tests: as for `openDaemon`. */
  readonly preload?: string;
  /** Default: all. */
  readonly kinds?: readonly FloodKind[];
}

export async function proveFloods(context: FloodsContext): Promise<Proof> {
  const notes = new Notes();
  await using daemon = await openDaemon(context, 'model');
  const [hostile, polite] = [await daemon.key('mallory'), await daemon.key('alice')];
  const kinds = context.kinds ?? FLOOD_KINDS;
  const needsSandbox = SANDBOX_FLOODS.some((kind) => kinds.includes(kind));
  const sandbox = needsSandbox ? await openSandbox(daemon, hostile) : { id: '', token: '' };
  const agent = new Agent({ keepAlive: true });
  const ask = (): Promise<readonly Sample[]> => askHealth(daemon, polite, agent);
  for (const kind of kinds) {
    const rounds: Round[] = [];
    let outcomes = '';
    let tried = floodTry(kind, rounds);
    while (rounds.length < ROUNDS_MAX && !(tried.ok && tried.seen.startsWith('p99'))) {
      context.signal?.throwIfAborted();
      const calm = await ask();
      const { flooded, seen } = await duringFlood({ url: daemon.url, kind, key: hostile, sandbox }, ask);
      outcomes = seen;
      rounds.push({ calm, flooded });
      tried = floodTry(kind, rounds);
    }
    notes.note(`control: a flood of ${kind} goes on`, 'answers', outcomes, outcomes !== '');
    notes.add(tried);
  }
  agent.destroy();
  return notes.proof('floods');
}

/** A sandbox of the hostile tenant, with webhooks for events that never come. */
async function openSandbox({ ask }: Daemon, key: string): Promise<FloodPlan['sandbox']> {
  const made = await ask('POST', '/sandboxes', key, { templateID: 'agent', timeout: 3600, secure: true });
  if (made.status !== 201) {
    const cause = new Error(made.body.slice(0, 1000));
    throw new ProofError('no_world', 'the sandbox of the hostile tenant did not start', { cause });
  }
  const { sandboxID: id, envdAccessToken: token } = JSON.parse(made.body) as Record<
    'sandboxID' | 'envdAccessToken',
    string
  >;
  for (let name = 0; name < WEBHOOKS; name += 1) {
    await ask('POST', '/events/webhooks', key, {
      name: `${name}`,
      url: 'https://example.com/',
      enabled: true,
      events: ['sandbox.lifecycle.checkpointed'],
      signatureSecret: 'x'.repeat(32),
    });
  }
  return { id, token };
}

async function duringFlood(
  plan: Omit<FloodPlan, 'counts'>,
  ask: () => Promise<readonly Sample[]>,
): Promise<{ flooded: readonly Sample[]; seen: string }> {
  const counts = new Uint32Array(new SharedArrayBuffer(STATUSES * Uint32Array.BYTES_PER_ELEMENT));
  const workerData: FloodPlan = { ...plan, counts };
  const worker = new Worker(modulePath('./flood-worker.ts', import.meta.url), { workerData, execArgv: [] });
  try {
    const answered = () => counts.reduce((sum, count) => sum + count, 0);
    await eventually(async () => answered() >= BEGUN);
    const before = counts.slice();
    const flooded = await ask();
    const more = [...counts].flatMap((count, status) => {
      const during = count - (before[status] ?? 0);
      return during > 0 ? [`${during} of status ${status}`] : [];
    });
    return { flooded, seen: more.join(', ') };
  } finally {
    await worker.terminate();
  }
}

/** Asks at fixed times, whether or not earlier requests are answered: a long turn delays all that fall into it. */
function askHealth(daemon: Daemon, key: string, agent: Agent): Promise<readonly Sample[]> {
  const timed = Array.from({ length: SAMPLES }, async (_, sample) => {
    await sleep(sample * GAP_MS);
    return await askOnce(daemon, key, agent);
  });
  return Promise.all(timed);
}

async function askOnce({ url, pid }: Daemon, key: string, agent: Agent): Promise<Sample> {
  const [beganMs, loop, own] = [performance.now(), timesOf(pid), timesOf(process.pid)];
  await new Promise<void>((resolve, reject) => {
    const asked = request(new URL('/v1/health', url), { agent, headers: { 'x-api-key': key } }, (answer) => {
      answer.resume();
      answer.once('end', resolve);
    });
    asked.once('error', reject);
    asked.end();
  });
  const [loopNow, ownNow] = [timesOf(pid), timesOf(process.pid)];
  const ownWaitMs = ownNow.waitMs - own.waitMs;
  return {
    ms: performance.now() - beganMs,
    // While the answer waits for this process, the event loop goes on.
    cpuMs: Math.max(0, loopNow.cpuMs - loop.cpuMs - ownWaitMs),
    waitMs: loopNow.waitMs - loop.waitMs + ownWaitMs,
  };
}

/** Of a process's main thread: /proc/PID/schedstat has its time on a processor, and waiting for one, in nanoseconds. */
function timesOf(pid: number): { readonly cpuMs: number; readonly waitMs: number } {
  const [cpu = 0, wait = 0] = readFileSync(`/proc/${pid}/task/${pid}/schedstat`, 'latin1').split(' ').map(Number);
  return { cpuMs: cpu / 1e6, waitMs: wait / 1e6 };
}
