/**
 * Starts a VMM process. The default puts it into its own process group and ties its life to ours; a jail replaces the
 * function and keeps the contract.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type { DiskLimits } from '../../base/request/disk-limits.ts';
import { searchPath } from '../../base/search-path.ts';
import { closeAllOnExec } from '../../sys/close-on-exec.ts';
import { withoutHugePages } from '../../sys/huge-pages.ts';
import { VmmError } from './errors.ts';

/**
 * Starts the VMM with the given stdio, as `spawn` does.
 *
 * - The process ends when this one does, even by SIGKILL, unless it `outlives` it.
 * - It inherits the descriptors of `stdio` and no others.
 * - It inherits no environment, which may have keys of upstream servers.
 */
export type Launch = (plan: LaunchPlan) => Promise<Launched>;

export interface LaunchPlan {
  /** The VM's id, `[a-z0-9]+`. */
  readonly id: string;
  /** The program, by name or by absolute path, and its arguments. */
  readonly argv: readonly string[];
  readonly stdio: Readonly<LaunchStdio>;
  /** The VM's own, private directory. */
  readonly dir: string;
  /** Files that it opens by path; a jail shows no others. */
  readonly files: readonly LaunchFile[];
  /** The guest's size, from which the VMM's limits on the host follow. */
  readonly memoryMib: number;
  /** Memory of others that it maps, MiB: the kernel charges a page to the first process that touches it. Default 0. */
  readonly sharedMib?: number;
  /**
   * The VMM's descriptor of that memory: punching a hole there succeeds without effect. Only for a launch that supports
   * it (`QemuConfinement.sparesFiles`).
   */
  readonly sparedFd?: number | undefined;
  readonly cpus: number;
  /** Limits that the VMM enforces on its guest; a jail may enforce them on the VMM. */
  readonly diskLimits?: DiskLimits;
  /** False: the kernel gives it no transparent huge pages, even if it requests them. Default: true. */
  readonly hugePages?: boolean;
  /** True: it outlives this process. Only for a launch that supports it (`QemuConfinement.outlives`). */
  readonly outlives?: boolean;
}

/** Indexed by the VMM's descriptor; a number is one of our descriptors that it inherits. */
export type LaunchStdio = ('ignore' | 'pipe' | number)[];

export interface LaunchFile {
  readonly path: string;
  /** `write`: a file in `dir`. `device`: read, write and ioctl. */
  readonly access: 'read' | 'write' | 'device';
}

export interface Launched {
  /**
   * The VMM, or a process that ends with it. Then a status of 128 + n means that signal n ended the VMM (no VMM exits
   * with such a status itself).
   */
  readonly child: ChildProcess;
  /** The VMM's pid; rejects if it could not be started with its limits. */
  readonly pid: Promise<number>;
  /** Kills the VMM; `child` emits the end. Idempotent. */
  kill(): void;
  /** Replaces `diskLimits`. Omitted if only the VMM enforces them. */
  limitDisks?(limits: DiskLimits): void;
  /** Directories of the VMM's control group. Omitted: it has none. */
  readonly groups?: readonly string[];
  /** Call it after the end of `child`. Idempotent. */
  release(): Promise<void>;
}

/**
 * `setpriv` (util-linux) sets the parent-death signal and no_new_privs, and becomes the VMM by execve. The kernel ties
 * that signal to the thread that spawned: call it from the main thread.
 */
export const launchDirect: Launch = async ({ argv, stdio, hugePages = true }) => {
  closeAllOnExec();
  const start = (): ChildProcess =>
    spawn('setpriv', ['--pdeathsig', 'KILL', '--no-new-privs', '--', ...argv], {
      stdio: [...stdio],
      detached: true,
      cwd: '/',
      // Only the search path passes.
      env: { PATH: searchPath(process.env['PATH']) },
    });
  return ofChild(hugePages ? start() : withoutHugePages(start));
};

/** For a child that is the VMM itself. */
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
