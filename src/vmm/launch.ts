/**
 * How a VMM process is started. The default puts it into a process group of its own and ties its life to
 * ours; a jail replaces the function and keeps the contract.
 */
import { type ChildProcess, spawn } from 'node:child_process';

/**
 * Starts `argv` with the stdio that is given, as `spawn` does, and returns at once.
 *
 * - The process ends when this one does, even by SIGKILL.
 * - `pid` is the VMM's own, so that a signal to it ends the VMM.
 * - Nothing of this process' environment reaches it: keys of upstream servers may be there.
 */
export type Launch = (argv: readonly string[], stdio: Readonly<LaunchStdio>) => ChildProcess;

/** By descriptor of the VMM; a number is one of ours, which it inherits. */
export type LaunchStdio = ('ignore' | 'pipe' | number)[];

/**
 * `setpriv` (util-linux) sets the parent-death signal and no_new_privs, and becomes the VMM by execve.
 * The kernel ties that signal to the thread that spawned: call it from the main thread.
 */
export const launchDirect: Launch = (argv, stdio) =>
  spawn('setpriv', ['--pdeathsig', 'KILL', '--no-new-privs', '--', ...argv], {
    stdio: [...stdio],
    detached: true,
    cwd: '/',
    // Where programs are found is the one thing that passes.
    env: { PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin' },
  });
