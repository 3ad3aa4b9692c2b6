/**
 * The cost for the main thread of a guest that floods its channel with Firecracker: the relay's thread against Node's
 * streams on the main thread, in turn. Guests and the host's service are two other processes; no VM is involved.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { sleep, systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { modulePath } from '../../src/base/module-path.ts';
import { percentile } from '../../src/base/statistics.ts';
import { MIB } from '../../src/base/units.ts';
import { RelayHost } from '../../src/machine/vmm/firecracker/channel/relay-host.ts';
import type { Benchmark, Measurement } from '../benchmark.ts';
import { rowsOf } from '../compare.ts';

const PORT = 2000;
/** Time until connections are open and code is compiled. */
const WARM_UP_MS = 100;
const ROUND_MS = 500;
const TICK_MS = 2;

interface RoundSamples {
  /** Delays of timers, milliseconds. */
  readonly delaysMs: number[];
  /** Their 99th percentile in each round. */
  readonly p99Ms: number[];
  /** CPU time of the main thread per second, milliseconds. */
  readonly busyMs: number[];
  readonly mbPerS: number[];
}

export const relayBenchmark: Benchmark = {
  names: ['relay.delay', 'relay.delay99', 'relay.busy', 'relay.throughput'],
  summary: 'what a flood of a channel costs the main thread with Firecracker, without a VM',
  withoutRuntime: true,
  async measure({ rounds, signal, say }) {
    await using cleanup = new CleanupStack();
    const dir = await mkdtemp(join(tmpdir(), 'nv-bench-'));
    cleanup.push('directory', () => rm(dir, { recursive: true, force: true }));
    const ways = {
      thread: await openWay(join(dir, 'thread'), cleanup, relayInThread),
      main: await openWay(join(dir, 'main'), cleanup, relayOnMainThread),
    };
    for (let round = 1; round <= rounds; round += 1) {
      say(`round ${round} of ${rounds}`);
      for (const way of [ways.main, ways.thread]) {
        signal.throwIfAborted();
        await measureRound(way);
      }
    }
    const [own, base] = [ways.thread.samples, ways.main.samples];
    const figure = (name: string, unit: Measurement['unit'], pick: (samples: RoundSamples) => readonly number[]) =>
      rowsOf(unit, 'none')(name, pick(own), ['Node streams on the main thread', pick(base)]);
    return [
      figure('relay.delay', 'ms', (samples) => samples.delaysMs),
      figure('relay.delay99', 'ms', (samples) => samples.p99Ms),
      figure('relay.busy', 'ms', (samples) => samples.busyMs),
      figure('relay.throughput', 'MB/s', (samples) => samples.mbPerS),
    ];
  },
};

interface Way {
  readonly service: Peer;
  readonly guests: Peer;
  readonly samples: RoundSamples;
}

/** Listens at `<inner>_<port>` and relays to `<channel>_<port>`. @returns the inner path */
type OpenRelay = (channelPath: string, cleanup: CleanupStack) => Promise<string>;

async function openWay(dir: string, cleanup: CleanupStack, open: OpenRelay): Promise<Way> {
  await mkdir(dir, { mode: 0o700 });
  const channelPath = join(dir, 'v');
  const service = await Peer.start('service', `${channelPath}_${PORT}`, cleanup);
  const innerPath = await open(channelPath, cleanup);
  const guests = await Peer.start('guests', `${innerPath}_${PORT}`, cleanup);
  return { service, guests, samples: { delaysMs: [], p99Ms: [], busyMs: [], mbPerS: [] } };
}

const relayInThread: OpenRelay = async (channelPath, cleanup) => {
  const host = new RelayHost(silentLog, systemClock);
  cleanup.push("relay's thread", () => host.close());
  const relay = host.open(channelPath, {});
  cleanup.push('relay', () => relay.close());
  await relay.prepare();
  return relay.innerPath;
};

const relayOnMainThread: OpenRelay = async (channelPath, cleanup) => {
  const innerPath = join(channelPath, '../c');
  const server = createServer({ allowHalfOpen: true }, (guest) => {
    const host = connect({ path: `${channelPath}_${PORT}`, allowHalfOpen: true });
    const end = (): unknown => [guest, host].map((socket: Socket) => socket.destroy());
    for (const socket of [guest, host]) socket.on('error', end).on('close', end);
    guest.pipe(host).pipe(guest);
  });
  cleanup.push('server', () => {
    server.close();
  });
  await new Promise<void>((resolve) => server.listen(`${innerPath}_${PORT}`, resolve));
  return innerPath;
};

async function measureRound({ service, guests, samples }: Way): Promise<void> {
  await guests.ask('start');
  await sleep(WARM_UP_MS);
  await service.ask('count');
  const [startMs, startCpu] = [performance.now(), process.threadCpuUsage()];
  const delays = await delaysFor(ROUND_MS);
  const seconds = (performance.now() - startMs) / 1000;
  const { user, system } = process.threadCpuUsage(startCpu);
  const bytes = Number(await service.ask('count'));
  await guests.ask('stop');
  samples.delaysMs.push(...delays);
  samples.p99Ms.push(percentile(delays, 99) ?? Number.NaN);
  samples.busyMs.push((user + system) / 1000 / seconds);
  samples.mbPerS.push(bytes / MIB / seconds);
}

async function delaysFor(totalMs: number): Promise<number[]> {
  const delays: number[] = [];
  const endMs = performance.now() + totalMs;
  for (let beganMs = performance.now(); beganMs < endMs; beganMs = performance.now()) {
    await new Promise((resolve) => setTimeout(resolve, TICK_MS));
    delays.push(Math.max(0, performance.now() - beganMs - TICK_MS));
  }
  return delays;
}

class Peer {
  readonly #child: ChildProcess;
  readonly #answers: ((line: string) => void)[] = [];

  private constructor(child: ChildProcess, lines: NodeJS.ReadableStream) {
    this.#child = child;
    createInterface({ input: lines }).on('line', (line) => this.#answers.shift()?.(line));
  }

  static async start(role: string, path: string, cleanup: CleanupStack): Promise<Peer> {
    const script = modulePath('./relay-peer.ts', import.meta.url);
    const child = spawn(process.execPath, [script, role, path], { stdio: ['pipe', 'pipe', 'inherit'] });
    cleanup.push(`${role} process`, async () => {
      const ended = new Promise((resolve) => child.once('exit', resolve));
      if (child.exitCode !== null || !child.kill('SIGKILL')) return;
      await ended;
    });
    const peer = new Peer(child, child.stdout);
    await new Promise<void>((resolve, reject) => {
      peer.#answers.push(() => resolve());
      child.once('error', reject);
      child.once('exit', (code) => reject(new Error(`the ${role} process ended with ${code}`)));
    });
    return peer;
  }

  /** @returns the line that answers the command */
  ask(command: string): Promise<string> {
    return new Promise((resolve) => {
      this.#answers.push(resolve);
      this.#child.stdin?.write(`${command}\n`);
    });
  }
}
