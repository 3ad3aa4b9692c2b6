/**
 * How a VMM process is started. The default puts it into a process group of its own and ties its life to
 * ours; a jail replaces the function and keeps the contract.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type { DiskLimits } from '../base/disk-limits.ts';
import { searchPath } from '../base/search-path.ts';
import { closeAllOnExec } from '../sys/close-on-exec.ts';
import { VmmError } from './errors.ts';

/**
 * Starts the VMM with the stdio that is given, as `spawn` does.
 *
 * - The process ends when this one does, even by SIGKILL.
 * - It has the descriptors of `stdio` and no other of this process.
 * - Nothing of this process' environment reaches it: keys of upstream servers may be there.
 */
export type Launch = (plan: LaunchPlan) => Promise<Launched>;

export interface LaunchPlan {
  /** Of the VM, `[a-z0-9]+`. */
  readonly id: string;
  /** The program, by name or by absolute path, and its arguments. */
  readonly argv: readonly string[];
  readonly stdio: Readonly<LaunchStdio>;
  /** The VM's own, private directory. */
  readonly dir: string;
  /** What it opens by path. A jail lets it see nothing else. */
  readonly files: readonly LaunchFile[];
  /** Of the guest: what the VMM may take of the host follows from it. */
  readonly memoryMib: number;
  readonly cpus: number;
  /** What the VMM holds its guest to; who jails it may hold the VMM to as much. */
  readonly diskLimits?: DiskLimits;
}

/** By descriptor of the VMM; a number is one of ours, which it inherits. */
export type LaunchStdio = ('ignore' | 'pipe' | number)[];

export interface LaunchFile {
  readonly path: string;
  /** `write`: a file in `dir`. `device`: read, write and ioctl. */
  readonly access: 'read' | 'write' | 'device';
}

export interface Launched {
  /**
   * The VMM, or a process whose end is the VMM's. Then a status of 128 + n means that signal n ended the VMM
   * (no VMM ends with such a status by itself).
   */
  readonly child: ChildProcess;
  /** The VMM's own; rejects when it could not be started as it should. */
  readonly pid: Promise<number>;
  /** Ends the VMM by SIGKILL; `child` tells when it is over. Idempotent. */
  kill(): void;
  /** Changes `diskLimits`. Absent: nothing but the VMM itself holds it to them. */
  limitDisks?(limits: DiskLimits): void;
  /** After the end of `child`. Idempotent. */
  release(): Promise<void>;
}

/**
 * `setpriv` (util-linux) sets the parent-death signal and no_new_privs, and becomes the VMM by execve.
 * The kernel ties that signal to the thread that spawned: call it from the main thread.
 */
export const launchDirect: Launch = async ({ argv, stdio }) => {
  closeAllOnExec();
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--no-new-privs', '--', ...argv], {
    stdio: [...stdio],
    detached: true,
    cwd: '/',
    // Where programs are found is the one thing that passes.
    env: { PATH: searchPath(process.env['PATH']) },
  });
  return ofChild(child);
};

/** A child that is the VMM itself. */
export function ofChild(child: ChildProcess): Launched {
  const { pid } = child;
  return {
    child,
    pid:
      pid === undefined
        ? new Promise((_, reject) => child.once('error', (cause) => reject(notStarted(cause))))
        : Promise.resolve(pid),
    kill: () => void child.kill('SIGKILL'),
    release: () => Promise.resolve(),
  };
}

function notStarted(cause: unknown): VmmError {
  return new VmmError('vm_gone', 'the VMM could not be started', { cause });
}
