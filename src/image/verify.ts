/**
 * Is this file still the one that was made? An artifact is trusted for its SHA-256, never for its name.
 *
 * Hashing a golden image takes a third of a second, too much for each start. So the full hash is taken
 * at the first use after each boot of the host, and again as soon as anything about the file's identity
 * moved: inode, size, mtime or ctime, to the nanosecond. A write through the filesystem moves ctime, and
 * no ordinary call can set it back: one flipped byte leads to a full hash, and that to a refusal.
 * A file that changed less than RACY_MS ago gets no stamp, since a second change could fall
 * within the same tick of the clock. What a damaged disk does between two boots shows at the next boot.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile, rename, stat, writeFile } from 'node:fs/promises';
import { systemClock } from '../base/clock.ts';
import { errorCode } from '../base/errors.ts';
import { ignore } from '../base/ignore.ts';
import { MIB } from '../base/units.ts';
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
    // The length in front keeps two lists apart that only differ in where one part ends.
    const bytes = typeof part === 'string' ? Buffer.from(part) : part;
    hash.update(`${bytes.length}:`).update(bytes);
  }
  return hash.digest('hex');
}

/**
 * Checks the file's SHA-256; cheap when nothing about the file changed since the last check in this boot.
 * @returns how it was found out
 * @throws ImageError `artifact_altered` when the content is another, or the file can't be read
 */
export async function verifyImage(
  path: string,
  digest: string,
  digestOf: (path: string) => Promise<string> = digestFile,
): Promise<'stamp' | 'hashed'> {
  const before = await identify(path);
  if (before === undefined) throw altered(path, 'it is not there');
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

/** What changes when a file does; undefined when it is not there. */
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
    ignore(error, 'no stamp of an earlier check: the file is hashed');
    return undefined;
  }
}

async function writeStamp(path: string, stamp: string): Promise<void> {
  const temporary = `${path}${STAMP_SUFFIX}.${process.pid}`;
  try {
    await writeFile(temporary, stamp, { mode: 0o600 });
    await rename(temporary, path + STAMP_SUFFIX);
  } catch (error) {
    ignore(error, 'a stamp can not be written: the next start hashes again');
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
    remedy: 'Run `neurovisor setup`: it builds the file anew.',
  });
}
