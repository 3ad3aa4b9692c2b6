/**
 * Firecracker below the wrapper processes that made its namespaces and wait for its end: finds its pid, and derives its
 * exit from their status.
 */
import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { errorCode } from '../../../../base/errors.ts';

/** setpriv becomes unshare; its child sh; its child the jailer, which becomes Firecracker. */
const DEPTH_MAX = 8;
/** A shell's exit status for signal n is 128 + n. */
const SIGNAL_STATUS = 128;
/** Exit statuses of Firecracker's own signal handlers (src/machine/vmm/src/lib.rs, FcExitCode). */
const OWN_STATUS = { min: 148, max: 157 };

/** Follows the chain of only children from `pid` to its end. */
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
    // The process has just ended.
    if (errorCode(error) !== 'ENOENT' && errorCode(error) !== 'ESRCH') throw error;
    return [];
  }
}

/** The exit of the wrapped process, derived from its wrapper's. */
export function unwrapEnd(
  exitCode: number | null,
  signal: NodeJS.Signals | null,
): { exitCode: number | null; signal: string | null } {
  const isOwn = exitCode !== null && exitCode >= OWN_STATUS.min && exitCode <= OWN_STATUS.max;
  const name = Object.entries(constants.signals).find(([, number]) => exitCode === SIGNAL_STATUS + number)?.[0];
  if (isOwn || name === undefined) return { exitCode, signal };
  return { exitCode: null, signal: name };
}
