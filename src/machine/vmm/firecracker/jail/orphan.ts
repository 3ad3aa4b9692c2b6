/** A jailed Firecracker whose owner may have been killed: its owner record and its processes. */
import { lstat, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { sleep } from '../../../../base/clock.ts';
import { errorCode } from '../../../../base/errors.ts';
import { awaitOr } from '../../../../base/ignore.ts';
import { isRunning, startTicksOf } from '../../../../sys/process-start.ts';
import { type JailOwner, OWNER_FILE } from './owner.ts';

const KILL_TRIES_MAX = 200;
const KILL_WAIT_MS = 10;

/** Schema of `JailOwner`, a file written by root. */
const ownerSchema = z.object({
  pid: z.number().int().positive(),
  startTicks: z.string().max(32),
  cgroups: z.array(z.string().startsWith('/')),
});

/** @returns undefined for a jail that is being created or is not ours */
export async function readOwner(folder: string): Promise<JailOwner | undefined> {
  return await awaitOr(undefined, 'the jail has no owner record', async () =>
    ownerSchema.parse(JSON.parse(await readFile(join(folder, OWNER_FILE), 'utf8'))),
  );
}

/** All processes whose root is this directory. */
export async function processesIn(root: string): Promise<number[]> {
  const wanted = await lstat(root).catch(ifThere);
  if (wanted === undefined) return [];
  const found: number[] = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    // stat follows the link to the directory itself, whatever its text says.
    const at = await stat(`/proc/${name}/root`).catch(ifThere);
    if (at?.ino === wanted.ino && at.dev === wanted.dev) found.push(Number(name));
  }
  return found;
}

/** Ignores a process or directory that is gone or not readable. */
function ifThere(error: unknown): undefined {
  if (!GONE.has(errorCode(error) ?? '')) throw error;
  return undefined;
}

const GONE = new Set(['ENOENT', 'ESRCH', 'EACCES']);

/** Kills all processes whose root is this directory; a recorded pid may have been reused. */
export async function endProcessesIn(root: string): Promise<void> {
  // An exiting process releases its root some time before it is gone.
  const ending = new Map<number, string | undefined>();
  for (let tries = 0; tries < KILL_TRIES_MAX; tries += 1) {
    for (const pid of await processesIn(root)) {
      if (!ending.has(pid)) ending.set(pid, startTicksOf(pid));
      kill(pid);
    }
    for (const [pid, startTicks] of ending) {
      if (startTicks === undefined || !isRunning({ pid, startTicks })) ending.delete(pid);
    }
    if (ending.size === 0) return;
    await sleep(KILL_WAIT_MS);
  }
  throw new Error('its process does not end after SIGKILL');
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if (errorCode(error) !== 'ESRCH') throw error;
  }
}
