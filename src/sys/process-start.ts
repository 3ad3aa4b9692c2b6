/**
 * Identifies processes by pid and start time, so that a reused pid is not mistaken for the old process; finds their
 * parents.
 */
import { readFileSync } from 'node:fs';
import { errorCode } from '../base/errors.ts';

/** @returns field 22 of /proc/<pid>/stat (proc(5)), or undefined for an ended process */
export function startTicksOf(pid: number): string | undefined {
  const fields = statOf(pid);
  return fields?.[0] === 'Z' ? undefined : fields?.[22 - 3];
}

/** @returns 0 if there is none, or it is outside of this pid namespace; undefined if the process has ended */
export function parentOf(pid: number): number | undefined {
  const field = statOf(pid)?.[4 - 3];
  return field === undefined ? undefined : Number(field);
}

/** The fields of /proc/<pid>/stat from the third on. */
function statOf(pid: number): string[] | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The command in parentheses may contain anything; fields are counted after the last one.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  } catch (error) {
    if (errorCode(error) === 'ENOENT' || errorCode(error) === 'ESRCH') return undefined;
    throw error;
  }
}

export function isRunning(process: { readonly pid: number; readonly startTicks: string }): boolean {
  return startTicksOf(process.pid) === process.startTicks;
}

/** Sends SIGKILL to this process. @returns false if it has ended */
export function killIfRunning(target: { readonly pid: number; readonly startTicks: string }): boolean {
  if (!isRunning(target)) return false;
  try {
    return process.kill(target.pid, 'SIGKILL');
  } catch (error) {
    // The process has ended since.
    if (errorCode(error) !== 'ESRCH') throw error;
    return false;
  }
}
