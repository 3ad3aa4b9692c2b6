import { readFileSync } from 'node:fs';
import { tryOr } from '../../base/ignore.ts';

/** A flag in /proc/PID/stat: the process is exiting; its files are closed before it is a zombie (linux/sched.h). */
const PF_EXITING = 0x4;

/**
 * Whether the kernel still runs the process. It sees a kill before any event does; a stopped process counts as not
 * alive.
 */
export function isPidAlive(pid: number | null): boolean {
  return tryOr(false, 'the process is gone', () => {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The fields after the name in parentheses (proc(5)): zombie, dead, stopped, traced; the flags come six fields
    // later.
    const [state = 'X', , , , , , flags] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return !'ZXTt'.includes(state) && (Number(flags) & PF_EXITING) === 0;
  });
}
