/** Makes the host's OOM killer choose VMMs first (proc_pid_oom_score_adj(5)). */
import { readFileSync, writeFileSync } from 'node:fs';
import { ignore } from '../../base/ignore.ts';

/**
 * Added to this process's own score, out of 1000. The kernel kills the process with the most memory, and a clone that
 * shares its RAM has less than the daemon; a bonus of half of all memory makes it the first choice.
 */
const MORE = 500;
const MAX = 1000;

/** The score of VMMs whose daemon has `own`. A daemon that is never chosen (-1000) has VMMs that are. */
export function vmmScore(own: number): number {
  return Math.min(MAX, Math.max(0, own) + MORE);
}

/** Makes the OOM killer choose this VMM before the process that started it. */
export function offerToOomKiller(vmmPid: number): void {
  try {
    const own = Number(readFileSync('/proc/self/oom_score_adj', 'latin1'));
    writeFileSync(`/proc/${vmmPid}/oom_score_adj`, `${vmmScore(own)}`, { flag: 'r+' });
  } catch (error) {
    ignore(error, 'the VMM has ended, or /proc is read-only: the kernel chooses by size');
  }
}
