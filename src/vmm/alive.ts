/** Whether the kernel still lets a process run. */
import { readFileSync } from 'node:fs';
import { ignore } from '../base/ignore.ts';

/** What the kernel says, which knows of a kill before any event comes; also no for one that a signal has stopped. */
export function isPidAlive(pid: number | null): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The state comes after the name in parentheses (proc(5)): zombie, dead, stopped, traced.
    return !'ZXTt'.includes(stat.charAt(stat.lastIndexOf(')') + 2));
  } catch (error) {
    ignore(error, 'no such process any more');
    return false;
  }
}
