/**
 * Allows one setup at a time: two concurrent builds of the same kernel would only take twice as long. The lock
 * is flock(2) on a file in the cache, so the kernel releases it when its owner dies.
 */
import { mkdir, open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
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
  await mkdir(cacheDir, { recursive: true });
  const path = join(cacheDir, 'setup.lock');
  const file = await open(path, 'a+', 0o600);
  try {
    if (!tryLockExclusive(file.fd)) await waitForLock(context, path, file.fd);
    await file.truncate(0);
    await file.write(`${process.pid}\n`);
    await removeLeftovers(cacheDir);
    return await work();
  } finally {
    // Closing releases the lock. The file stays: removing it could split later callers over two files.
    await file.close();
  }
}

async function waitForLock(context: LockContext, path: string, fd: number): Promise<void> {
  const { progress, signal, log } = context;
  const startedAtMs = systemClock.now();
  const owner = await ownerOf(path);
  log.info('another setup is running', { pid: owner });
  progress({
    kind: 'start',
    step: STEP,
    title: `Wait for another setup (process ${owner})`,
    estimateMs: ESTIMATE_MS,
  });
  do {
    try {
      await sleep(POLL_MS, signal);
    } catch (cause) {
      progress({ kind: 'failed', step: STEP, message: 'cancelled' });
      throw new ImageError('cancelled', 'wait for another setup', { cause });
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
