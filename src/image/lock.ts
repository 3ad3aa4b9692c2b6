/**
 * Allows one setup at a time: two concurrent builds of the same kernel would only take twice as long. The lock
 * is flock(2) on a file in the cache, so the kernel releases it when its owner dies.
 */
import { mkdir, open, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { sleep, systemClock } from '../base/clock.ts';
import { ignore } from '../base/ignore.ts';
import { tryLockExclusive } from '../sys/file.ts';
import { ImageError } from './errors.ts';
import { type PrepareContext, removeLeftovers } from './prepare.ts';

/** Poll interval of a waiting setup, ms. */
const POLL_MS = 200;
const STEP = 'wait';
const ESTIMATE_MS = 300_000;

export type LockContext = Pick<PrepareContext, 'cacheDir' | 'progress' | 'signal' | 'log'>;

/**
 * Runs `work` while no other process does so on this cache. A second caller waits, and reports the owner.
 * @throws ImageError `cancelled` when the signal aborts the wait
 */
export async function withSetupLock<T>(context: LockContext, work: () => Promise<T>): Promise<T> {
  const { cacheDir } = context;
  return await withFileLock(context, join(cacheDir, 'setup.lock'), 'setup', async () => {
    await removeLeftovers(cacheDir);
    return await work();
  });
}

/**
 * Runs `work` while this process has the lock of a file, which is made and stays.
 * @param what has the lock, for people: `setup`
 * @throws ImageError `cancelled` when the signal aborts the wait
 */
export async function withFileLock<T>(
  context: Pick<LockContext, 'progress' | 'signal' | 'log'>,
  path: string,
  what: string,
  work: () => Promise<T>,
): Promise<T> {
  await mkdir(dirname(path), { recursive: true });
  const file = await open(path, 'a+', 0o600);
  try {
    if (!tryLockExclusive(file.fd)) await waitForLock(context, path, file.fd, what);
    await file.truncate(0);
    await file.write(`${process.pid}\n`);
    return await work();
  } finally {
    // Closing releases the lock. The file stays: removing it could split later callers over two files.
    await file.close();
  }
}

async function waitForLock(
  { progress, signal, log }: Pick<LockContext, 'progress' | 'signal' | 'log'>,
  path: string,
  fd: number,
  what: string,
): Promise<void> {
  const startedAtMs = systemClock.now();
  const owner = await ownerOf(path);
  log.info(`another ${what} is running`, { pid: owner });
  progress({
    kind: 'start',
    step: STEP,
    title: `Wait for another ${what} (process ${owner})`,
    estimateMs: ESTIMATE_MS,
  });
  do {
    try {
      await sleep(POLL_MS, signal);
    } catch (cause) {
      progress({ kind: 'failed', step: STEP, message: 'cancelled' });
      throw new ImageError('cancelled', `wait for another ${what}`, { cause });
    }
  } while (!tryLockExclusive(fd));
  const durationMs = systemClock.now() - startedAtMs;
  progress({ kind: 'done', step: STEP, cached: false, durationMs });
}

async function ownerOf(path: string): Promise<string> {
  try {
    return (await readFile(path, 'utf8')).trim() || 'unknown';
  } catch (error) {
    ignore(error, 'the owner of the setup lock is only shown');
    return 'unknown';
  }
}
