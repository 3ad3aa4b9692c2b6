/**
 * Reclaims jails whose owner was killed. The change of user removes a jailed Firecracker's parent-death signal, so it
 * keeps running; the next NeuroVisor ends it and removes its jail.
 */
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describeError, errorCode } from '../../../../base/errors.ts';
import type { Log } from '../../../../base/log.ts';
import { isRunning } from '../../../../sys/process-start.ts';
import { removeCgroups } from './cgroups.ts';
import { checkChrootBase } from './chroot-base.ts';
import { endProcessesIn, readOwner } from './orphan.ts';
import { ROOT } from './owner.ts';

/**
 * @param baseDir see `JailSpec`; may be missing
 * @returns the number of removed jails
 * @throws VmmError if the base is unsafe
 */
export async function reclaimJails(baseDir: string, log: Log): Promise<number> {
  if ((await namesIn(baseDir)).length === 0) return 0;
  await checkChrootBase(baseDir);
  let reclaimed = 0;
  for (const program of await namesIn(baseDir)) {
    for (const id of await namesIn(join(baseDir, program))) {
      const folder = join(baseDir, program, id);
      try {
        const owner = await readOwner(folder);
        if (owner === undefined || isRunning(owner)) continue;
        await endProcessesIn(join(folder, ROOT));
        await removeCgroups(owner.cgroups);
        await rm(folder, { recursive: true, force: true });
        reclaimed += 1;
        log.info('reclaimed a jail whose owner was killed', { jail: id });
      } catch (error) {
        log.warn('could not reclaim a jail', { jail: id, error: describeError(error) });
      }
    }
  }
  return reclaimed;
}

async function namesIn(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    if (errorCode(error) === 'ENOENT' || errorCode(error) === 'ENOTDIR') return [];
    throw error;
  }
}
