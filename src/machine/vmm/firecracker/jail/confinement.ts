/** Checks that a running Firecracker is confined: it silently accepts even an empty filter. */
import { readdirSync, readFileSync } from 'node:fs';
import { errorCode } from '../../../../base/errors.ts';
import { VmmError } from '../../errors.ts';

/**
 * Checks that every thread of the process has its own seccomp filter and no_new_privs, and, in a jail, the jail's user
 * and no capabilities.
 * @param jail `null` if not jailed
 * @throws VmmError `vmm_start_failed`
 */
export function checkConfinement(
  pid: number,
  jail: { readonly uid: number; readonly filters?: number | undefined } | null,
): void {
  const uid = jail?.uid ?? null;
  const others = (jail?.filters ?? 0) + inheritedFilters();
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const status = statusOf(pid, thread);
    if (status === undefined) continue;
    const wrong = [
      hasOwnFilter(status, others) ? '' : 'no system call filter',
      lineOf(status, 'NoNewPrivs') === '1' ? '' : 'no no_new_privs',
      uid === null || /^0+$/.test(lineOf(status, 'CapEff')) ? '' : 'capabilities',
      uid === null || isUser(status, uid) ? '' : 'another user',
    ].filter((text) => text !== '');
    if (wrong.length === 0) continue;
    throw new VmmError('vmm_start_failed', 'Firecracker is not confined as required', {
      cause: `thread ${thread} (${lineOf(status, 'Name')}) has ${wrong.join(', ')}`,
    });
  }
}

/**
 * @param others number of filters without its own
 * @throws VmmError if the kernel does not report the number of filters
 */
function hasOwnFilter(status: string, others: number): boolean {
  if (lineOf(status, 'Seccomp') !== FILTERED) return false;
  const count = lineOf(status, FILTERS);
  if (count !== '') return Number(count) > others;
  if (others === 0) return true;
  throw new VmmError('vmm_start_failed', "could not check Firecracker's confinement", {
    cause: 'the kernel does not report the number of system call filters of a thread',
    remedy: 'Use Linux 5.9 or newer.',
  });
}

/** The filters of this process, for example from a service or a container, which its children inherit. */
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

/** @returns an empty text if there is no such line */
function lineOf(status: string, name: string): string {
  return new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)?.[1]?.trim() ?? '';
}

/** @returns undefined for a thread that has ended */
function statusOf(pid: number, thread: string): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/task/${thread}/status`, 'latin1');
  } catch (error) {
    if (errorCode(error) !== 'ENOENT' && errorCode(error) !== 'ESRCH') throw error;
    return undefined;
  }
}
