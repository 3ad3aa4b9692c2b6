/**
 * Unpacks files that the repository ships compiled and compressed: the guest kernel and its init. A file is used only
 * if size and SHA-256 match the manifest. Needs no program of the host.
 */
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { join } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createZstdDecompress } from 'node:zlib';
import type { z } from 'zod';
import { errorCode } from '../../base/errors.ts';
import { PREBUILT_MANIFEST, type PrebuiltManifest, readPrebuilt } from '../../base/prebuilt/manifest.ts';
import { isDiskFull } from './disk-space.ts';
import { ImageError } from './errors.ts';

const COMPRESSED_SUFFIX = '.zst';

/** @returns undefined if this checkout ships none @throws ImageError `source_invalid` if the manifest is damaged */
export async function readShipped<Manifest extends PrebuiltManifest>(
  dir: string,
  schema: z.ZodType<Manifest>,
): Promise<Manifest | undefined> {
  try {
    return await readPrebuilt(dir, schema);
  } catch (cause) {
    throw damaged(join(dir, PREBUILT_MANIFEST), cause);
  }
}

export const compressedPath = (dir: string, name: string): string => join(dir, name + COMPRESSED_SUFFIX);

export interface Unpacking {
  readonly dir: string;
  /** Name in the manifest; the compressed file has another extension. */
  readonly name: string;
  readonly manifest: PrebuiltManifest;
  /** After an error its content must not be used. */
  readonly to: string;
  readonly mode?: number;
  readonly signal: AbortSignal;
}

/** @throws ImageError `source_invalid` if it is damaged; `cancelled`; Error of Node `ENOSPC`, `EDQUOT` */
export async function unpackPrebuilt(unpacking: Unpacking): Promise<void> {
  const { dir, name, manifest, to, mode = 0o644, signal } = unpacking;
  const path = compressedPath(dir, name);
  const expected = manifest.files[name];
  if (expected === undefined) throw damaged(path, new Error(`the manifest does not name ${name}`));
  const hash = createHash('sha256');
  let bytes = 0;
  const measure = new Transform({
    transform(chunk: Buffer, _, done) {
      bytes += chunk.length;
      hash.update(chunk);
      // Stops a file that would fill the disk.
      done(bytes > expected.sizeBytes ? new Error(TOO_LARGE) : null, chunk);
    },
  });
  const file = createWriteStream(to, { mode });
  try {
    await pipeline(createReadStream(path), createZstdDecompress(), measure, file, { signal });
  } catch (cause) {
    if (signal.aborted) throw new ImageError('cancelled', `unpack ${path}`, { cause });
    if (isDiskFull(cause) || isOfTarget(cause, to)) throw cause;
    throw damaged(path, cause);
  }
  if (bytes !== expected.sizeBytes) throw damaged(path, new Error('it is truncated'));
  if (hash.digest('hex') !== expected.sha256) {
    throw damaged(path, new Error('the SHA-256 of its content is not that of its manifest'));
  }
}

const TOO_LARGE = 'it unpacks to more than its manifest says';

/** True for an error of the target, which says nothing about the shipped file. */
const isOfTarget = (error: unknown, to: string): boolean =>
  errorCode(error) !== undefined && (error as NodeJS.ErrnoException).path === to;

function damaged(path: string, cause: unknown): ImageError {
  return new ImageError('source_invalid', `${path} is damaged`, {
    cause,
    remedy:
      'Restore the file from the repository or package, or run `neurovisor setup --build-kernel` to build guest kernel and init here.',
  });
}
