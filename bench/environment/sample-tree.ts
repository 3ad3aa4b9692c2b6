/** Files like an image's: many small ones, some large; they compress to about a third. */
import { createCipheriv } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { KIB, MIB } from '../../src/base/units.ts';

const FILES_IN_DIRECTORY = 64;
const PIECE = 3 * KIB;
const RANDOM_IN_PIECE = KIB;
/** Sizes in bytes, used in turn; 64 MiB are 860 files. */
const SIZES = [500, 2 * KIB, 6 * KIB, 12 * KIB, 20 * KIB, 40 * KIB, 60 * KIB, 470 * KIB];

/** Makes equal files each time. @param bytes total size of all files */
export async function makeSampleTree(tree: string, bytes: number): Promise<void> {
  const content = sampleContent(8 * MIB);
  let left = bytes;
  for (let index = 0; left > 0; index += 1) {
    const dir = join(tree, `${Math.floor(index / FILES_IN_DIRECTORY)}`);
    if (index % FILES_IN_DIRECTORY === 0) await mkdir(dir, { recursive: true });
    const size = Math.min(left, SIZES[index % SIZES.length] ?? left);
    const from = (index * 7919 * 16) % (content.length - size);
    await writeFile(join(dir, `${index}`), content.subarray(from, from + size));
    left -= size;
  }
}

/** A third of it is random, the rest is text. */
export function sampleContent(bytes: number): Buffer {
  const content = Buffer.alloc(bytes, 'The quick brown fox jumps over the lazy dog.\n');
  const random = createCipheriv('aes-128-ctr', Buffer.alloc(16), Buffer.alloc(16));
  for (let at = 0; at < bytes; at += PIECE) {
    random.update(Buffer.alloc(RANDOM_IN_PIECE)).copy(content, at);
  }
  return content;
}
