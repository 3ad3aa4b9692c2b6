/** Looks at a Firecracker that runs: is it what it was told to be? A filter that is empty is taken without a word. */
import { readdirSync, readFileSync } from 'node:fs';
import { errorCode } from '../../../base/errors.ts';
import { VmmError } from '../../errors.ts';
import type { JailSpec } from './jailer.ts';

/**
 * Every thread of the process has a system call filter of its own and no way to new privileges; a jailed one has
 * none now.
 * @param jail with the user that it must have; null: it is not jailed
 * @throws VmmError `vmm_start_failed`
 */
export function checkConfinement(
  pid: number,
  jail: Pick<JailSpec, 'uid' | 'filters'> | null,
): void {
  const uid = jail?.uid ?? null;
  const others = (jail?.filters ?? 0) + inheritedFilters();
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const status = statusOf(pid, thread);
    if (status === undefined) continue;
    const wrong = [
      hasOwnFilter(status, others) ? '' : 'no system call filter',
      lineOf(status, 'NoNewPrivs') === '1' ? '' : 'a way to new privileges',
      uid === null || /^0+$/.test(lineOf(status, 'CapEff')) ? '' : 'capabilities',
      uid === null || isUser(status, uid) ? '' : 'another user',
    ].filter((text) => text !== '');
    if (wrong.length === 0) continue;
    throw new VmmError('vmm_start_failed', 'Firecracker is not confined as it should be', {
      cause: `thread ${thread} (${lineOf(status, 'Name')}) has ${wrong.join(', ')}`,
    });
  }
}

/**
 * @param others that it would have without one of its own
 * @throws VmmError where the kernel does not count them, and so there is no telling
 */
function hasOwnFilter(status: string, others: number): boolean {
  if (lineOf(status, 'Seccomp') !== FILTERED) return false;
  const count = lineOf(status, FILTERS);
  if (count !== '') return Number(count) > others;
  if (others === 0) return true;
  throw new VmmError('vmm_start_failed', 'it can not be seen how Firecracker is confined', {
    cause: 'the kernel does not tell how many system call filters a thread has',
    remedy: 'use Linux 5.9 or newer',
  });
}

/** Of this process, e.g. of a service or a container: what it starts has them, too. */
function inheritedFilters(): number {
  const status = readFileSync('/proc/self/status', 'latin1');
  const count = lineOf(status, FILTERS);
  if (count !== '') return Number(count);
  return lineOf(status, 'Seccomp') === FILTERED ? 1 : 0;
}

/** SECCOMP_MODE_FILTER (linux/seccomp.h). */
const FILTERED = '2';
/** Since Linux 5.9. */
const FILTERS = 'Seccomp_filters';

function isUser(status: string, uid: number): boolean {
  return lineOf(status, 'Uid')
    .split(/\s+/)
    .every((one) => one === `${uid}`);
}

/** @returns empty where there is no such line */
function lineOf(status: string, name: string): string {
  return new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)?.[1]?.trim() ?? '';
}

/** Undefined for a thread that has ended meanwhile. */
function statusOf(pid: number, thread: string): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/task/${thread}/status`, 'latin1');
  } catch (error) {
    if (errorCode(error) !== 'ENOENT' && errorCode(error) !== 'ESRCH') throw error;
    return undefined;
  }
}
