/** The real guest agent as an ordinary process of this machine, over unix sockets instead of vsock. */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { systemClock } from '../../src/base/clock.ts';
import { ignore } from '../../src/base/ignore.ts';
import { type Log, silentLog } from '../../src/base/log.ts';
import type { GuestIdentity } from '../../src/machine/guest/identity.ts';
import {
  type Guest,
  type GuestListener,
  listenForGuest,
  type Process,
  type ProcessExit,
} from '../../src/machine/guest/link.ts';
import { descendants } from './leftovers.ts';

const AGENT = join(import.meta.dirname, '../../guest/agent/__main__.py');
const PYTHONS = ['/usr/bin/python3.13', '/usr/bin/python3.12', '/usr/bin/python3.11'];

/** A Python that the agent supports. */
export const agentPython = PYTHONS.find((path) => existsSync(path)) ?? '/usr/bin/python3';

export interface RunningAgent extends AsyncDisposable {
  readonly guest: Guest;
  readonly listener: GuestListener;
  readonly channelPath: string;
  /** Private directory of this agent, removed at the end. */
  readonly dir: string;
  readonly child: ChildProcess;
  console(): string;
}

export interface AgentOptions {
  readonly identity?: Partial<GuestIdentity>;
  readonly log?: Log;
  /**
   * Home of every user. Default: an empty one. With this process's, login shells would run its profile, which may start
   * anything, take long, and leave locks if it is killed.
   */
  readonly home?: string;
}

export async function startAgent(options: AgentOptions = {}): Promise<RunningAgent> {
  const dir = mkdtempSync(join(tmpdir(), 'nv-agent-'));
  const channelPath = join(dir, 'ch');
  const listener = await listenForGuest({
    channelPath,
    identity: { sandboxId: 'abcdefghij0123456789', hostname: 'nv-test', env: {}, limits: {}, ...options.identity },
    helloTimeoutMs: 20_000,
    clock: systemClock,
    entropy: () => randomBytes(64),
    log: options.log ?? silentLog,
  });
  const child = spawnAgent(channelPath, options.home ?? emptyHome(dir));
  // Registered at once: a test may kill the agent at any moment.
  const exited = once(child, 'exit');
  let text = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on('data', (data) => {
      text += String(data);
    });
  }
  const end = async (): Promise<void> => {
    await listener.close();
    if (child.exitCode === null && child.signalCode === null) {
      // Outside a VM nothing ends the programs of a killed agent.
      const programs = child.pid === undefined ? [] : await descendants(child.pid);
      child.kill('SIGKILL');
      await exited;
      for (const program of programs) kill(Number.parseInt(program, 10));
    }
    rmSync(dir, { recursive: true, force: true });
  };
  const guest = await listener.ready().catch(async (error: unknown) => {
    await end();
    throw error;
  });
  return {
    guest,
    listener,
    channelPath,
    dir,
    child,
    console: () => text,
    async [Symbol.asyncDispose]() {
      guest.close();
      await end();
    },
  };
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    ignore(error, 'it has ended by itself');
  }
}

/** Other users can reach it, but nothing else in the directory. */
function emptyHome(dir: string): string {
  const home = join(dir, 'home');
  mkdirSync(home);
  chmodSync(home, 0o755);
  chmodSync(dir, 0o711);
  return home;
}

export function spawnAgent(channelPath: string, home: string): ChildProcess {
  const args = ['-I', '-S', AGENT, '--unix', channelPath, '--inference-port', '0'];
  const env = { ...process.env, HOME: home };
  return spawn(agentPython, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
}

export interface Outcome {
  readonly exit: ProcessExit;
  readonly stdout: string;
  readonly stderr: string;
}

/** Reads both streams to their ends. */
export async function outcome(process: Process): Promise<Outcome> {
  const text = async (stream: Readable): Promise<string> => (await buffer(stream)).toString();
  const [stdout, stderr, exit] = await Promise.all([text(process.stdout), text(process.stderr), process.exit]);
  return { exit, stdout, stderr };
}
