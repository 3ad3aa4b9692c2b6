/**
 * Processes of starts whose owner was killed meanwhile (I/O). bubblewrap's child ties its life to its parent late, and
 * then waits for a message of the owner that never comes: it has no VMM, but would wait forever. A VMM that outlives its
 * owner, and is not recorded yet, is found by its parent, bubblewrap.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { tryOr } from '../../base/ignore.ts';
import { killIfRunning, parentOf, startTicksOf } from '../../sys/process-start.ts';

/**
 * Kills leftovers of the starts with these ids, none of which may be in progress.
 * @returns the number of killed processes
 */
export function endUnfinishedStarts(ids: ReadonlySet<string>): number {
  if (ids.size === 0) return 0;
  const found: { pid: number; startTicks: string }[] = [];
  for (const name of readdirSync('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    const startTicks = startTicksOf(pid);
    const id = startOf(pid) ?? startOf(parentOf(pid) ?? 0);
    if (startTicks !== undefined && id !== undefined && ids.has(id)) found.push({ pid, startTicks });
  }
  // Only then: a VMM whose parent has ended is not found any more.
  return found.filter(killIfRunning).length;
}

/**
 * The id of the start that a process belongs to: bubblewrap gets it as the host name. Ids are random, and a process
 * that pretends to belong to a start harms only itself.
 */
function startOf(pid: number): string | undefined {
  return tryOr(undefined, 'the process has ended', () => {
    const words = readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0');
    if (basename(words[0] ?? '') !== 'bwrap') return undefined;
    return words[words.indexOf('--hostname') + 1];
  });
}
