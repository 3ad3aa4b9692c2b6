/** The start of Firecracker, or of a jailer that becomes it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { searchPath } from '../../../../base/search-path.ts';
import { closeAllOnExec } from '../../../../sys/close-on-exec.ts';
import type { LaunchStdio } from '../../launch.ts';

/**
 * Starts `argv` with the given stdio, as `spawn` does, and returns at once; `pid` becomes Firecracker's. The process
 * inherits only the descriptors of `stdio` and no environment, which may have keys of upstream servers.
 */
export type SpawnVmm = (argv: readonly string[], stdio: Readonly<LaunchStdio>) => ChildProcess;

/**
 * `setpriv` (util-linux) sets no_new_privs and the parent-death signal, and becomes the VMM by execve. The kernel ties
 * that signal to the thread that spawned: call it from the main thread. The kernel drops it when the jailer changes the
 * user; then `reclaimJails` ends the process.
 */
export const spawnVmm: SpawnVmm = (argv, stdio) => {
  closeAllOnExec();
  return spawn('setpriv', ['--pdeathsig', 'KILL', '--no-new-privs', '--', ...argv], {
    stdio: [...stdio],
    detached: true,
    cwd: '/',
    // Only the search path passes.
    env: { PATH: searchPath(process.env['PATH']) },
  });
};
