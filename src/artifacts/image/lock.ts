/**
 * Locks that processes share: two concurrent builds of the same kernel would only take twice as long. A lock is
 * flock(2) on a file, so the kernel releases it when its owner dies. The progress of a waiting caller says what it
 * waits for. Finished artifacts are read without a lock.
 */
import { type FileHandle, mkdir, open, readFile, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { sleep, systemClock } from '../../base/clock.ts';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import type { Progress } from '../../base/progress.ts';
import { tryLockExclusive } from '../../sys/file.ts';
import { ImageError } from './errors.ts';
import { removeLeftovers } from './work-dir.ts';

const POLL_MS = 200;

export interface FileLockContext {
  readonly progress: Progress;
  readonly signal: AbortSignal;
  readonly log: Log;
}

export interface LockContext extends FileLockContext {
  readonly cacheDir: string;
}

/**
 * Runs `work` while no other process sets this cache up. A second caller waits, and reports the owner.
 * @throws ImageError `cancelled` if the signal aborts the wait
 */
export async function withSetupLock<T>(context: LockContext, work: () => Promise<T>): Promise<T> {
  const { cacheDir } = context;
  const path = join(cacheDir, 'setup.lock');
  return await withFileLock(context, path, 'set this machine up', async () => {
    await removeLeftovers(cacheDir);
    return await work();
  });
}

/**
 * Runs `work` while no other caller does for this artifact.
 * @param what for people, e.g. `Build the golden image`
 * @throws ImageError `cancelled` if the signal aborts the wait
 */
export async function withArtifactLock<T>(
  context: LockContext,
  artifact: { readonly kind: string; readonly key: string },
  what: string,
  work: () => Promise<T>,
): Promise<T> {
  const path = join(context.cacheDir, 'locks', `${artifact.kind}-${artifact.key}`);
  return await withFileLock(context, path, what, async () => {
    try {
      return await work();
    } finally {
      await rm(path, { force: true });
    }
  });
}

/**
 * Runs `work` while this process holds the lock of a file, which is created if it is missing.
 * @param what activity of the owner, for people: `pull NAME`
 * @throws ImageError `cancelled` if the signal aborts the wait
 */
export async function withFileLock<T>(
  context: FileLockContext,
  path: string,
  what: string,
  work: () => Promise<T>,
): Promise<T> {
  await mkdir(dirname(path), { recursive: true });
  const file = await openLocked(context, path, what);
  try {
    await file.truncate(0);
    await file.write(`${process.pid}\n`);
    return await work();
  } finally {
    // Closing releases the lock.
    await file.close();
  }
}

async function openLocked(context: FileLockContext, path: string, what: string): Promise<FileHandle> {
  for (;;) {
    const file = await open(path, 'a+', 0o600);
    try {
      if (!tryLockExclusive(file.fd)) await waitForLock(context, path, file.fd, what);
      // The previous owner may have removed the file, and another one may have created a new one.
      if (await isAt(file, path)) return file;
    } catch (error) {
      await file.close();
      throw error;
    }
    await file.close();
  }
}

async function isAt(file: FileHandle, path: string): Promise<boolean> {
  try {
    const [its, there] = [await file.stat(), await stat(path)];
    return its.ino === there.ino && its.dev === there.dev;
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return false;
    throw error;
  }
}

async function waitForLock(
  { progress, signal, log }: FileLockContext,
  path: string,
  fd: number,
  what: string,
): Promise<void> {
  const startedAtMs = systemClock.now();
  const owner = await ownerOf(path);
  // A daemon builds for many requests.
  const who = owner === `${process.pid}` ? 'another request' : `process ${owner}`;
  const step = `wait-${basename(path)}`;
  log.info(`waiting for ${who}`, { work: what });
  progress({ kind: 'start', step, title: `Wait for ${who}: ${what}` });
  do {
    try {
      await sleep(POLL_MS, signal);
    } catch (cause) {
      progress({ kind: 'failed', step, message: 'cancelled' });
      throw new ImageError('cancelled', `wait for ${who}: ${what}`, { cause });
    }
  } while (!tryLockExclusive(fd));
  const durationMs = systemClock.now() - startedAtMs;
  progress({ kind: 'done', step, cached: false, durationMs });
}

async function ownerOf(path: string): Promise<string> {
  try {
    return (await readFile(path, 'utf8')).trim() || 'unknown';
  } catch (error) {
    ignore(error, 'the owner of a lock is only shown');
    return 'unknown';
  }
}
