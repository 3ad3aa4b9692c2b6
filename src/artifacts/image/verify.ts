/**
 * Verifies that a file is unchanged since it was built. An artifact is trusted for its SHA-256, never its name.
 *
 * Hashing a golden image takes a third of a second, too much for each start. So the full hash is computed at the first
 * use after each boot of the host, and whenever the file's identity changed: inode, size, mtime or ctime, to the
 * nanosecond. A write through the file system changes ctime, and no ordinary call can restore it: one flipped byte
 * leads to a full hash, and that to an error. A file that changed less than RACY_MS ago gets no stamp, since a second
 * change could fall within the same clock tick. Damage on the disk is found at the next boot.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile, rename, stat, writeFile } from 'node:fs/promises';
import { systemClock } from '../../base/clock.ts';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { MIB } from '../../base/units.ts';
import { ImageError } from './errors.ts';

const READ_CHUNK_BYTES = MIB;
const RACY_MS = 2000;
const STAMP_BYTES_MAX = 4096;
const STAMP_SUFFIX = '.verified';

export async function digestFile(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  const stream = createReadStream(path, {
    highWaterMark: READ_CHUNK_BYTES,
    ...(signal === undefined ? {} : { signal }),
  });
  for await (const chunk of stream) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

export function digestBytes(...parts: readonly (string | Uint8Array)[]): string {
  const hash = createHash('sha256');
  for (const part of parts) {
    // The length prefix distinguishes lists that differ only in where one part ends.
    const bytes = typeof part === 'string' ? Buffer.from(part) : part;
    hash.update(`${bytes.length}:`).update(bytes);
  }
  return hash.digest('hex');
}

/**
 * Checks the file's SHA-256; cheap if the file did not change since the last check in this boot.
 * @returns the method of the check
 * @throws ImageError `artifact_altered` if the content differs or the file is missing
 */
export async function verifyImage(
  path: string,
  digest: string,
  digestOf: (path: string) => Promise<string> = digestFile,
): Promise<'stamp' | 'hashed'> {
  const before = await identify(path);
  if (before === undefined) throw altered(path, 'it does not exist');
  const bootId = await hostBootId();
  const stamp = `${JSON.stringify({ digest, bootId, ...before })}\n`;
  if ((await readStamp(path)) === stamp) return 'stamp';
  const actual = await digestOf(path);
  if (actual !== digest) throw altered(path, `its SHA-256 is ${actual}, not ${digest}`);
  const after = await identify(path);
  const settled = systemClock.wall() - Number(BigInt(before.ctimeNs) / 1_000_000n) > RACY_MS;
  if (settled && JSON.stringify(after) === JSON.stringify(before)) await writeStamp(path, stamp);
  return 'hashed';
}

export interface FileIdentity {
  readonly device: string;
  readonly inode: string;
  readonly sizeBytes: string;
  readonly mtimeNs: string;
  readonly ctimeNs: string;
}

/** The identity of a file, which changes with the file; undefined if it does not exist. */
export async function identify(path: string): Promise<FileIdentity | undefined> {
  try {
    const s = await stat(path, { bigint: true });
    return {
      device: `${s.dev}`,
      inode: `${s.ino}`,
      sizeBytes: `${s.size}`,
      mtimeNs: `${s.mtimeNs}`,
      ctimeNs: `${s.ctimeNs}`,
    };
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

async function readStamp(path: string): Promise<string | undefined> {
  try {
    const text = await readFile(path + STAMP_SUFFIX, 'utf8');
    return text.length <= STAMP_BYTES_MAX ? text : undefined;
  } catch (error) {
    ignore(error, 'no stamp of an earlier check: hash the file');
    return undefined;
  }
}

async function writeStamp(path: string, stamp: string): Promise<void> {
  const temporary = `${path}${STAMP_SUFFIX}.${process.pid}`;
  try {
    await writeFile(temporary, stamp, { mode: 0o600 });
    await rename(temporary, path + STAMP_SUFFIX);
  } catch (error) {
    ignore(error, 'the stamp can’t be written: the next start hashes again');
  }
}

async function hostBootId(): Promise<string> {
  try {
    return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  } catch (error) {
    ignore(error, 'no boot id: stamps hold across boots');
    return 'unknown';
  }
}

function altered(path: string, reason: string): ImageError {
  return new ImageError('artifact_altered', `check ${path}: ${reason}`, {
    remedy: 'Run `neurovisor setup` to rebuild the file.',
  });
}
