/** Looks at a Firecracker that runs: is it what it was told to be? A filter that is empty is taken without a word. */
import { readdirSync, readFileSync } from 'node:fs';
import { errorCode } from '../../base/errors.ts';
import { VmmError } from '../errors.ts';

/**
 * Every thread of the process has a system call filter and no way to new privileges; a jailed one has none now.
 * @param uid that it must have; null: it is not jailed
 * @throws VmmError `vmm_start_failed`
 */
export function checkConfinement(pid: number, uid: number | null): void {
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const status = statusOf(pid, thread);
    if (status === undefined) continue;
    const value = (name: string): string =>
      new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)?.[1]?.trim() ?? '';
    const wrong = [
      value('Seccomp') === '2' ? '' : 'no system call filter',
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

/** Undefined for a thread that has ended meanwhile. */
function statusOf(pid: number, thread: string): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/task/${thread}/status`, 'latin1');
  } catch (error) {
    if (errorCode(error) !== 'ENOENT' && errorCode(error) !== 'ESRCH') throw error;
    return undefined;
  }
}
