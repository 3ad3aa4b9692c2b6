/**
 * `neurovisor serve` with real VMs under E2B's own client, at random:
 *
 *     this process ─┬─ daemon (a home and a directory of temporary files of its own)
 *                   ├─ client process: lanes, each with a sandbox           test/fixtures/e2b-soak/client.ts
 *                   └─ client processes that are killed after some seconds
 *
 * Rounds of load; after each all sandboxes are removed, and the daemon must hold what it held before the first.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text as textOf } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { resolveHome } from '../../src/base/home.ts';
import { MIB } from '../../src/base/units.ts';
import { ROOT } from './cli.ts';
import { type DaemonProcess, watchDaemon } from './daemon.ts';
import {
  type DaemonPlaces,
  type DaemonState,
  daemonState,
  differences,
  type MemoryReport,
  memoryOf,
  prefixed,
} from './e2b-soak-state.ts';
import { type MockUpstream, startMockUpstream } from './mock-upstream.ts';
import { randomFrom } from './run-seed.ts';
import { temporaryHome } from './vm.ts';

const CLIENT = join(import.meta.dirname, '../fixtures/e2b-soak/client.ts');
const REPORTER = join(import.meta.dirname, '../fixtures/e2b-soak/report-memory.mjs');
/** Concurrent sandboxes in the lasting process, beside the one of a process that is killed. */
const LANES = 2;
const TEMPLATE = 'agent';
/** A client process is killed after a time between these, milliseconds. */
const KILL_MS = { min: 2000, max: 20_000 };
/** Timeout of sandboxes: longer than their client lives, and short, so that few sandboxes of killed clients stay. */
const LIFE_MS = { steady: 600_000, killed: 40_000 };
/** For leaks, not for slowness: idle connections, ends of programs that are kept for 30 s. */
const SETTLE_MS_MAX = 90_000;
/**
 * Heap after garbage collection: data that is kept on purpose for a while, such as ended sandboxes and compiled code.
 */
const HEAP_BYTES_MAX = 24 * MIB;
/** Allocators keep gaps; a leak exceeds any limit. */
const RESIDENT_BYTES_MAX = 128 * MIB;

export interface Deed {
  readonly deed: string;
  readonly id: string;
  readonly ms: number;
  readonly at: string;
  readonly why?: string;
  /** Refused for now, as by a busy machine. */
  readonly busy?: true;
}

export interface SoakRound {
  readonly seed: number;
  readonly deeds: number;
  readonly memory: MemoryReport;
  readonly leaks: readonly string[];
}

export interface SoakReport {
  readonly rounds: readonly SoakRound[];
  readonly before: MemoryReport;
  readonly sandboxes: number;
  readonly killed: number;
  readonly done: ReadonlyMap<string, number>;
  /** Number of refusals because the machine was busy. */
  readonly busy: number;
  readonly failures: readonly Deed[];
  /** Leaks of all rounds, and growth of memory. */
  readonly leaks: readonly string[];
  /** Last part of the daemon's log. */
  readonly log: string;
}

export interface SoakOptions {
  readonly seed: number;
  /** Duration of the load, without the warm-up. */
  readonly ms: number;
  readonly rounds: number;
  progress?(line: string): void;
}

export async function runE2bSoak(options: SoakOptions): Promise<SoakReport> {
  const soak = await Soak.open(options);
  try {
    return await soak.run();
  } finally {
    await soak.close();
  }
}

class Soak {
  readonly #options: SoakOptions;
  readonly #upstream: MockUpstream;
  readonly #daemon: DaemonProcess;
  readonly #places: DaemonPlaces;
  readonly #server: { readonly url: string; readonly apiKey: string };
  readonly #children = new Set<ChildProcess>();
  readonly #deeds: Deed[] = [];
  #killed = 0;

  private constructor(
    options: SoakOptions,
    upstream: MockUpstream,
    daemon: DaemonProcess,
    places: DaemonPlaces,
    server: { readonly url: string; readonly apiKey: string },
  ) {
    this.#options = options;
    this.#upstream = upstream;
    this.#daemon = daemon;
    this.#places = places;
    this.#server = server;
  }

  static async open(options: SoakOptions): Promise<Soak> {
    const homeDir = await temporaryHome();
    const tmpDir = await mkdtemp(join(tmpdir(), 'nv-soak-'));
    const reportPath = join(homeDir, 'memory.json');
    const upstream = await startMockUpstream();
    const main = join(ROOT, 'src/cli/main.ts');
    const flags = ['serve', '-o', 'json', '--pool', '0', '--port', '0'];
    const daemon = watchDaemon(process.execPath, ['--expose-gc', '--import', REPORTER, main, ...flags], {
      NEUROVISOR_HOME: homeDir,
      NEUROVISOR_UPSTREAM: upstream.target.baseUrl ?? '',
      TMPDIR: tmpDir,
      SOAK_REPORT: reportPath,
    });
    const { url, apiKeyPath } = await daemon.ready();
    const apiKey = (await readFile(apiKeyPath ?? '', 'utf8')).trim();
    const { runDir } = resolveHome(homeDir);
    const places = { pid: daemon.pid, homeDir, runDir, tmpDir, reportPath };
    return new Soak(options, upstream, daemon, places, { url: url ?? '', apiKey });
  }

  async close(): Promise<void> {
    for (const child of this.#children) child.kill('SIGKILL');
    this.#daemon.kill('SIGTERM');
    await this.#daemon.ended;
    await this.#upstream.close();
    const { homeDir, tmpDir } = this.#places;
    for (const dir of [homeDir, tmpDir]) await rm(dir, { recursive: true, force: true });
  }

  async run(): Promise<SoakReport> {
    const { seed, ms, rounds: count, progress } = this.#options;
    progress?.('the template, which may have to be built');
    await this.#ask('POST', '/v1/sandboxes', { template: TEMPLATE });
    progress?.('warm-up: each deed once');
    await this.#client(seed, 0, 1);
    await this.#removeAll();
    const [state, before] = await this.#settled(undefined);
    const rounds: SoakRound[] = [];
    for (let round = 0; round < count; round += 1) {
      const roundSeed = seed + 1000 * round;
      const already = this.#deeds.length;
      await this.#load(roundSeed, ms / count);
      await this.#removeAll();
      const [after, memory] = await this.#settled(state);
      const leaks = differences(state, after);
      const deeds = this.#deeds.length - already;
      rounds.push({ seed: roundSeed, deeds, memory, leaks });
      progress?.(
        `round ${round + 1} of ${count}, seed ${roundSeed}: ${deeds} deeds, ${this.#failures(already).length} failed, heap ${inMib(memory.heapUsed)} MiB, resident ${inMib(memory.rss)} MiB; ${leaks.length === 0 ? 'nothing left' : leaks.join('; ')}`,
      );
    }
    return this.#report(rounds, before);
  }

  #report(rounds: readonly SoakRound[], before: MemoryReport): SoakReport {
    const done = new Map<string, number>();
    for (const { deed } of this.#deeds) done.set(deed, (done.get(deed) ?? 0) + 1);
    const last = rounds.at(-1)?.memory ?? before;
    const grown = [
      { what: 'heap', bytes: last.heapUsed - before.heapUsed, most: HEAP_BYTES_MAX },
      { what: 'array buffers', bytes: last.arrayBuffers - before.arrayBuffers, most: MIB },
      { what: 'resident memory', bytes: last.rss - before.rss, most: RESIDENT_BYTES_MAX },
    ];
    const growth = grown.flatMap(({ what, bytes, most }) =>
      bytes > most ? [`${what}: ${inMib(bytes)} MiB more`] : [],
    );
    return {
      rounds,
      before,
      sandboxes: new Set(this.#deeds.map(({ id }) => id)).size,
      killed: this.#killed,
      done,
      busy: this.#deeds.filter(({ busy }) => busy === true).length,
      failures: this.#failures(0),
      leaks: [...new Set(rounds.flatMap(({ leaks }) => leaks)), ...growth],
      log: this.#daemon.stderr().slice(-20_000),
    };
  }

  #failures(from: number): Deed[] {
    return this.#deeds.slice(from).filter(({ why }) => why !== undefined);
  }

  async #load(seed: number, ms: number): Promise<void> {
    const random = randomFrom(seed);
    const endMs = performance.now() + ms;
    const doomed = async (): Promise<void> => {
      for (let n = 1; performance.now() < endMs; n += 1) {
        const lifeMs = KILL_MS.min + random() * (KILL_MS.max - KILL_MS.min);
        await this.#client(seed + 500 + n, ms, 1, Math.min(lifeMs, endMs - performance.now()));
      }
    };
    await Promise.all([this.#client(seed, ms, LANES), doomed()]);
  }

  /** @param killMs time after which it is killed. Default: it ends by itself, and must do so without an error */
  async #client(seed: number, ms: number, lanes: number, killMs?: number): Promise<void> {
    const { url, apiKey } = this.#server;
    const lifeMs = killMs === undefined ? LIFE_MS.steady : LIFE_MS.killed;
    const args = [TEMPLATE, seed, ms, lanes, lifeMs].map(String);
    const child = spawn(process.execPath, [CLIENT, ...args], {
      env: { PATH: process.env['PATH'], E2B_API_KEY: apiKey, E2B_API_URL: url, E2B_SANDBOX_URL: url },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#children.add(child);
    const timer = killMs === undefined ? undefined : setTimeout(() => child.kill('SIGKILL'), killMs);
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
    const [status, stdout, stderr] = await Promise.all([ended, textOf(child.stdout), textOf(child.stderr)]);
    clearTimeout(timer);
    this.#children.delete(child);
    // The last line of a killed process may be truncated.
    const lines = stdout.split('\n').slice(0, -1);
    this.#deeds.push(...lines.map((line) => JSON.parse(line) as Deed));
    if (killMs !== undefined && status === null) this.#killed += 1;
    else if (status !== 0) throw new Error(`a client ended ${status}: ${stderr}`);
  }

  /** Removes what killed clients left behind, which otherwise only time would remove. */
  async #removeAll(): Promise<void> {
    for (const kind of ['sandboxes', 'snapshots']) {
      const all = (await this.#ask('GET', `/v1/${kind}`)) as Record<string, { id: string }[]>;
      for (const { id } of all[kind] ?? []) await this.#ask('DELETE', `/v1/${kind}/${id}`);
    }
  }

  #ask(method: string, path: string, body?: object): Promise<unknown> {
    const headers = { 'x-api-key': this.#server.apiKey, 'content-type': 'application/json' };
    return new Promise((resolve, reject) => {
      // A connection of its own, which is closed with the answer.
      const asked = request(`${this.#server.url}${path}`, { method, headers, agent: false });
      asked.once('error', reject);
      asked.once('response', (answer) => {
        textOf(answer).then((text) => resolve(text === '' ? null : JSON.parse(text)), reject);
      });
      asked.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }

  /** The state once it is `expected`, or the last one that differs. Without `expected`: once it stays the same. */
  async #settled(expected: DaemonState | undefined): Promise<[DaemonState, MemoryReport]> {
    const deadline = performance.now() + SETTLE_MS_MAX;
    let last: DaemonState | undefined;
    for (;;) {
      await sleep(2000);
      await this.#removeAll();
      const memory = await memoryOf(this.#places);
      const state = { ...(await daemonState(this.#places)), ...prefixed('event loop: ', memory.resources) };
      const wanted = expected ?? last;
      if (wanted !== undefined && differences(wanted, state).length === 0) return [state, memory];
      if (performance.now() > deadline) return [state, memory];
      last = state;
    }
  }
}

const inMib = (bytes: number): string => (bytes / MIB).toFixed(1);
