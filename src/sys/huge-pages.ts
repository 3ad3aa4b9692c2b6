/** Transparent huge pages of processes that this one starts (prctl(2), PR_SET_THP_DISABLE). */
import { libc } from './libc.ts';

const PR_SET_THP_DISABLE = 41;
const PR_GET_THP_DISABLE = 42;
const control = libc.func('int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)');

/**
 * Processes that `start` starts, and their descendants, get no transparent huge pages, even if they request them. They
 * inherit that from this process, which has the setting meanwhile: so `start` must have forked when it returns, as
 * `spawn` has. If the kernel refuses, nothing changes.
 */
export function withoutHugePages<T>(start: () => T): T {
  const isOurs = control(PR_GET_THP_DISABLE, 0, 0, 0, 0) === 0;
  if (!isOurs || control(PR_SET_THP_DISABLE, 1, 0, 0, 0) < 0) return start();
  try {
    return start();
  } finally {
    control(PR_SET_THP_DISABLE, 0, 0, 0, 0);
  }
}
