/** `neurovisor serve` as a process, in a home of its own, with a scripted model server. */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll } from 'vitest';
import { resolveHome } from '../../src/base/home.ts';
import type { ServeReport } from '../../src/cli/commands/serve.ts';
import { type CliRun, cli, ROOT } from './cli.ts';
import { type MockUpstream, startMockUpstream } from './mock-upstream.ts';
import { temporaryHome } from './vm.ts';

export interface DaemonProcess {
  readonly pid: number;
  /** The exit status; `null` if a signal ended it. */
  readonly ended: Promise<number | null>;
  kill(signal: NodeJS.Signals): void;
  stdout(): string;
  stderr(): string;
  /** Resolves with the ready report of `-o json`; rejects if the daemon ends before. */
  ready(): Promise<ServeReport>;
}

/** A home in which daemons can be started one after another. Its members are valid inside tests. */
export interface DaemonHome {
  readonly dir: string;
  readonly runDir: string;
  readonly upstream: MockUpstream;
  /** Environment for a command that should find the daemon. */
  readonly env: Readonly<Record<string, string>>;
  serve(...flags: string[]): DaemonProcess;
  /** Like `serve`, with the launcher that starts the daemon again. */
  launched(...flags: string[]): DaemonProcess;
  there(args: readonly string[], options?: { readonly input?: string }): CliRun;
  /** Runs a command that must succeed, and returns its output. */
  says(...args: string[]): Promise<string>;
}

/** For tests: opened before them, and closed after them. */
export function useDaemonHome(): DaemonHome {
  let home: (DaemonHome & AsyncDisposable) | undefined;
  const opened = (): DaemonHome => {
    if (home === undefined) throw new Error('the home is there only inside tests');
    return home;
  };
  beforeAll(async () => {
    home = await openDaemonHome();
  });
  afterAll(async () => {
    await home?.[Symbol.asyncDispose]();
  });
  return {
    get dir() {
      return opened().dir;
    },
    get runDir() {
      return opened().runDir;
    },
    get upstream() {
      return opened().upstream;
    },
    get env() {
      return opened().env;
    },
    serve: (...flags) => opened().serve(...flags),
    launched: (...flags) => opened().launched(...flags),
    there: (args, options) => opened().there(args, options),
    says: async (...args) => await opened().says(...args),
  };
}

export async function openDaemonHome(): Promise<DaemonHome & AsyncDisposable> {
  const dir = await temporaryHome();
  const upstream = await startMockUpstream();
  const daemons: DaemonProcess[] = [];
  // A command whose environment names a model server does not use a daemon's.
  // Most tests that end a daemon want to see what its clients see then.
  const env = { NEUROVISOR_HOME: dir, NEUROVISOR_UPSTREAM: '', NEUROVISOR_DAEMON_WAIT: '0' };
  const start = (flags: readonly string[], how: Readonly<Record<string, string>>): DaemonProcess => {
    const daemon = startDaemon(flags, { ...env, NEUROVISOR_UPSTREAM: upstream.target.baseUrl ?? '', ...how });
    daemons.push(daemon);
    return daemon;
  };
  const there: DaemonHome['there'] = (args, options = {}) => cli(args, { env, ...options });
  return {
    dir,
    runDir: resolveHome(dir).runDir,
    upstream,
    env,
    serve: (...flags) => start(flags, {}),
    launched: (...flags) => start(flags, { NEUROVISOR_LAUNCHER: '' }),
    there,
    says: async (...args) => {
      const { status, stdout, stderr } = await there(args).result;
      if (status !== 0) throw new Error(`${args.join(' ')} ended ${status}: ${stderr}`);
      return stdout.trimEnd();
    },
    [Symbol.asyncDispose]: async () => {
      for (const daemon of daemons) daemon.kill('SIGTERM');
      await Promise.all(daemons.map(({ ended }) => ended));
      await upstream.close();
      await rm(dir, { recursive: true });
    },
  };
}

function startDaemon(flags: readonly string[], env: Readonly<Record<string, string>>): DaemonProcess {
  return watchDaemon(join(ROOT, 'neurovisor'), ['serve', ...flags], env);
}

/** @param command `neurovisor serve`, or a command that becomes it by exec */
export function watchDaemon(
  command: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): DaemonProcess {
  const child = spawn(command, args, {
    // One process, which a test can kill; `launched` has another. What a test leaves behind is paused for nobody.
    env: { ...process.env, NO_COLOR: '1', NEUROVISOR_LAUNCHER: 'off', NEUROVISOR_ON_STOP: 'end', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  const stdout = textOf(child.stdout);
  const stderr = textOf(child.stderr);
  return {
    pid: child.pid ?? 0,
    ended,
    kill: (signal) => void child.kill(signal),
    stdout,
    stderr,
    ready: async () => {
      let status: number | null | undefined;
      void ended.then((how) => {
        status = how;
      });
      // A failure prints an object too.
      while (!/"socketPath".*\n}\n$/s.test(stdout())) {
        if (status !== undefined) throw new Error(`the daemon ended ${status}: ${stderr()}`);
        await sleep(20);
      }
      return JSON.parse(stdout()) as ServeReport;
    },
  };
}

function textOf(stream: Readable): () => string {
  let text = '';
  stream.setEncoding('utf8').on('data', (part: string) => {
    text += part;
  });
  return () => text;
}

const GONE_MS_MAX = 10_000;

/**
 * Leftovers of a home: entries of its run directory, and VMMs that work in it. Waits a moment for those that are just
 * ending.
 */
export async function leftIn({ runDir }: Pick<DaemonHome, 'runDir'>): Promise<string[]> {
  for (const deadline = performance.now() + GONE_MS_MAX; ; await sleep(50)) {
    const left = [...(await readdir(runDir)), ...(await processesIn(runDir))];
    if (left.length === 0 || performance.now() > deadline) return left;
  }
}

/** The daemon that a launcher has started; undefined between two. */
export function daemonOf(launcher: number): number | undefined {
  const children = readFileSync(`/proc/${launcher}/task/${launcher}/children`, 'utf8').trim().split(' ').map(Number);
  return children.find((pid) => pid > 0 && isServing(pid));
}

function isServing(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('\0serve\0');
  } catch {
    return false;
  }
}

/** Of a sandbox, or of all. */
export async function pidsOfVmm(runDir: string, id = ''): Promise<number[]> {
  const vmms = (await processesIn(join(runDir, id))).filter((process) => !process.endsWith('/bwrap'));
  return vmms.map((process) => Number.parseInt(process, 10));
}

/** One per VM, without its jail's own process. */
export async function vmmsIn(runDir: string): Promise<string[]> {
  return (await processesIn(runDir)).filter((process) => !process.endsWith('/bwrap'));
}

/** Processes whose command line names something in a run directory. */
async function processesIn(runDir: string): Promise<string[]> {
  const found: string[] = [];
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const words = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    const [program = ''] = words.split('\0');
    if (words.includes(`${runDir}/`)) found.push(`${pid} ${program}`);
  }
  return found;
}
