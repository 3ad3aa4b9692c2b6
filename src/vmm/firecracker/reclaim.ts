/**
 * Jails whose owner was killed. Changing its user has cut a jailed Firecracker loose from the process that started
 * it, so it goes on running; the next owner ends it and removes its jail.
 */
import { lstat, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { sleep } from '../../base/clock.ts';
import { describeError, errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { isRunning } from '../../sys/process-start.ts';
import { removeCgroups } from './cgroups.ts';
import { checkChrootBase } from './chroot-base.ts';
import { type JailOwner, OWNER_FILE, ROOT } from './jail-place.ts';

/** `JailOwner`; a hand of root's wrote it. */
const ownerSchema = z.object({
  pid: z.number().int().positive(),
  startTicks: z.string().max(32),
  cgroups: z.array(z.string().startsWith('/')),
});

const KILL_TRIES_MAX = 200;
const KILL_WAIT_MS = 10;

/**
 * @param baseDir see `JailSpec`; fine when it is not there
 * @returns how many jails were removed
 * @throws VmmError when the base is not safe to work in
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

/** @returns undefined for one that is being made, or is not ours */
async function readOwner(folder: string): Promise<JailOwner | undefined> {
  try {
    return ownerSchema.parse(JSON.parse(await readFile(join(folder, OWNER_FILE), 'utf8')));
  } catch (error) {
    ignore(error, 'a jail without the name of its owner');
    return undefined;
  }
}

/** Whatever has this directory for its root: found by what it is, not by a number that somebody wrote down. */
async function endProcessesIn(root: string): Promise<void> {
  for (let tries = 0; tries < KILL_TRIES_MAX; tries += 1) {
    const pids = await processesIn(root);
    if (pids.length === 0) return;
    for (const pid of pids) kill(pid);
    await sleep(KILL_WAIT_MS);
  }
  throw new Error('its process does not end');
}

async function processesIn(root: string): Promise<number[]> {
  const wanted = await lstat(root).catch(ifThere);
  if (wanted === undefined) return [];
  const found: number[] = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    // The link is followed to the directory itself, whatever its text says.
    const at = await stat(`/proc/${name}/root`).catch(ifThere);
    if (at?.ino === wanted.ino && at.dev === wanted.dev) found.push(Number(name));
  }
  return found;
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if (errorCode(error) !== 'ESRCH') throw error;
  }
}

/** A process or directory may be gone, or be none of ours to look into. */
function ifThere(error: unknown): undefined {
  if (!GONE.has(errorCode(error) ?? '')) throw error;
  return undefined;
}

const GONE = new Set(['ENOENT', 'ESRCH', 'EACCES']);

async function namesIn(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    if (errorCode(error) === 'ENOENT' || errorCode(error) === 'ENOTDIR') return [];
    throw error;
  }
}
