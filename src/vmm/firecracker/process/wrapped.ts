/**
 * Firecracker below processes that made its namespaces and wait for its end: which process it is, and what their
 * status says of its end.
 */
import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { errorCode } from '../../../base/errors.ts';

/** setpriv becomes unshare, below that sh, below that the jailer, which becomes Firecracker. */
const DEPTH_MAX = 8;
/** What a shell adds to the number of the signal that ended a process. */
const SIGNAL_STATUS = 128;
/** Firecracker ends with these itself, in its handlers of signals (src/vmm/src/lib.rs, FcExitCode). */
const OWN_STATUS = { min: 148, max: 157 };

/** The process that has no child, on the way from `pid` where each has one. */
export function lastDescendant(pid: number): number {
  let found = pid;
  for (let depth = 0; depth < DEPTH_MAX; depth += 1) {
    const [child] = childrenOf(found);
    if (child === undefined) return found;
    found = child;
  }
  return found;
}

function childrenOf(pid: number): number[] {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1');
    return text.split(' ').filter(Boolean).map(Number);
  } catch (error) {
    // It has just ended.
    if (errorCode(error) !== 'ENOENT' && errorCode(error) !== 'ESRCH') throw error;
    return [];
  }
}

/** The wrapped process' end, from that of its wrapper. */
export function unwrapEnd(
  exitCode: number | null,
  signal: NodeJS.Signals | null,
): { exitCode: number | null; signal: string | null } {
  const isOwn = exitCode !== null && exitCode >= OWN_STATUS.min && exitCode <= OWN_STATUS.max;
  const name = Object.entries(constants.signals).find(
    ([, number]) => exitCode === SIGNAL_STATUS + number,
  )?.[0];
  if (isOwn || name === undefined) return { exitCode, signal };
  return { exitCode: null, signal: name };
}
