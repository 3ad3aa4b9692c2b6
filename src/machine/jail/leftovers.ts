/**
 * Processes of starts whose owner was killed meanwhile (io). bubblewrap's child binds its life to its parent's late, and
 * then waits for a word of the owner that never comes: it holds no VMM, but it would wait for ever.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { ignore } from '../../base/ignore.ts';
import { killIfRunning, startTicksOf } from '../../sys/process-start.ts';

/**
 * Kills what is left of the starts with these ids, of which none may be in progress.
 * @returns the number of killed processes
 */
export function endUnfinishedStarts(ids: ReadonlySet<string>): number {
  if (ids.size === 0) return 0;
  let ended = 0;
  for (const name of readdirSync('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    const startTicks = startTicksOf(pid);
    const id = startOf(pid);
    if (startTicks === undefined || id === undefined || !ids.has(id)) continue;
    if (killIfRunning({ pid, startTicks })) ended += 1;
  }
  return ended;
}

/**
 * The id of the start that a process belongs to: bubblewrap is told it as a host name. Ids are random, and a process
 * that pretends to belong to a start loses nothing but itself.
 */
function startOf(pid: number): string | undefined {
  try {
    const words = readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0');
    if (basename(words[0] ?? '') !== 'bwrap') return undefined;
    return words[words.indexOf('--hostname') + 1];
  } catch (error) {
    ignore(error, 'the process has ended');
    return undefined;
  }
}
