/** Looks at a Firecracker that runs: is it what it was told to be? A filter that is empty is taken without a word. */
import { readdirSync, readFileSync } from 'node:fs';
import { errorCode } from '../../base/errors.ts';
import { VmmError } from '../errors.ts';
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
  const { uid = null, filters: others = 0 } = jail ?? {};
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const status = statusOf(pid, thread);
    if (status === undefined) continue;
    const value = (name: string): string =>
      new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)?.[1]?.trim() ?? '';
    const wrong = [
      value('Seccomp') === '2' && hasOwn(value('Seccomp_filters'), others)
        ? ''
        : 'no system call filter',
      value('NoNewPrivs') === '1' ? '' : 'a way to new privileges',
      uid === null || /^0+$/.test(value('CapEff')) ? '' : 'capabilities',
      uid === null ||
      value('Uid')
        .split(/\s+/)
        .every((one) => one === `${uid}`)
        ? ''
        : 'another user',
    ].filter((text) => text !== '');
    if (wrong.length === 0) continue;
    throw new VmmError('vmm_start_failed', 'Firecracker is not confined as it should be', {
      cause: `thread ${thread} (${value('Name')}) has ${wrong.join(', ')}`,
    });
  }
}

/** @param count since Linux 5.9, else empty. Filters that come with a jail say nothing about Firecracker's. */
function hasOwn(count: string, others: number): boolean {
  return others === 0 || Number(count) > others;
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
