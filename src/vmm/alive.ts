import { readFileSync } from 'node:fs';
import { ignore } from '../base/ignore.ts';

/** Whether the kernel still runs the process. It knows of a kill before any event; a stopped process counts as not alive. */
export function isPidAlive(pid: number | null): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The state comes after the name in parentheses (proc(5)): zombie, dead, stopped, traced.
    return !'ZXTt'.includes(stat.charAt(stat.lastIndexOf(')') + 2));
  } catch (error) {
    ignore(error, 'the process is gone');
    return false;
  }
}
