/**
 * Copies and digests of sparse files: disks and the RAM of VMs. Only data moves; holes stay holes.
 *
 * The calls are synchronous: for a thousand small extents, the thread pool would cost more. The event loop runs after
 * each `TURN_BYTES`.
 */
import { createHash } from 'node:crypto';
import { constants, createReadStream, readSync, writeSync } from 'node:fs';
import { copyFile, type FileHandle, open, rm } from 'node:fs/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { errorCode } from '../base/errors.ts';
import { ignore } from '../base/ignore.ts';
import { MIB } from '../base/units.ts';
import { dataExtents, sendFile } from './file.ts';
import { PAGE_BYTES } from './memory.ts';

/** The largest piece of a file in one turn. */
export const CHUNK_BYTES = MIB;
/** About 1 ms of copying, 6 ms of digesting. */
const TURN_BYTES = 2 * CHUNK_BYTES;
const ZERO_PAGE = Buffer.alloc(PAGE_BYTES);

/**
 * Copies to `to`, which must not exist: shares extents if the filesystem can, else copies the data. On failure nothing
 * is left at `to`.
 */
export async function cloneSparse(from: string, to: string): Promise<void> {
  if (!(await reflink(from, to))) await copySparse(from, to);
}

/** `cloneSparse` without sharing, for another filesystem. */
export async function copySparse(from: string, to: string): Promise<void> {
  await (await createSparseCopy(from, to)).close();
}

/**
 * The same, for a caller that continues with the new file, wherever its name leads by then.
 * @returns the file, open for reading and writing; the caller closes it
 */
export async function createSparseCopy(from: string, to: string): Promise<FileHandle> {
  return intoNewFile(from, to, (target, chunk, at) => writeAll(target, chunk, at));
}

/** Like `copySparse`, but pages of zeros become holes. */
export async function copyWithoutZeros(from: string, to: string): Promise<void> {
  const copy = await intoNewFile(from, to, (target, chunk, at) => {
    for (const { start, end } of nonZeroRuns(chunk)) {
      writeAll(target, chunk.subarray(start, end), at + start);
    }
  });
  await copy.close();
}

/** Copies the data into an existing, empty file of the same size. */
export async function copyDataInto(from: string, to: string): Promise<void> {
  await intoOldFile(from, to, async (source, target) => {
    await copyDataBetween(source.fd, target.fd, (await target.stat()).size);
  });
}

/**
 * The same between open files, up to `bytes`, since another process may append to the source.
 * @throws Error if the source has shrunk
 */
export async function copyDataBetween(from: number, to: number, bytes: number): Promise<void> {
  let sinceTurn = 0;
  for (const { start, end } of dataExtents(from, bytes)) {
    for (let at = start; at < end; ) {
      const sent = sendFile(from, to, at, Math.min(CHUNK_BYTES, end - at));
      if (sent === 0) throw new Error('a file shrank while it was read');
      at += sent;
      sinceTurn += sent;
      if (sinceTurn < TURN_BYTES) continue;
      sinceTurn = 0;
      await nextTurn();
    }
  }
}

/** Like `copyDataInto`, but pages of zeros stay holes. */
export async function copyNonZeroInto(from: string, to: string): Promise<void> {
  await intoOldFile(from, to, (source, target) =>
    eachChunk(source, (chunk, at) => {
      for (const { start, end } of nonZeroRuns(chunk)) {
        writeAll(target.fd, chunk.subarray(start, end), at + start);
      }
    }),
  );
}

/** SHA-256 of the size and of every page that is not all zeros, so independent of holes. */
export async function digestSparse(path: string): Promise<string> {
  await using source = await open(path, 'r');
  const { size } = await source.stat();
  const hash = createHash('sha256').update(`${size}\n`);
  await eachChunk(source, (chunk, at) => {
    for (const { start, end } of nonZeroRuns(chunk)) {
      hash.update(`${at + start}+${end - start}:`).update(chunk.subarray(start, end));
    }
  });
  return hash.digest('hex');
}

/** SHA-256 of a file as it is. */
export async function digestWhole(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: CHUNK_BYTES })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

async function reflink(from: string, to: string): Promise<boolean> {
  try {
    await copyFile(from, to, constants.COPYFILE_FICLONE_FORCE | constants.COPYFILE_EXCL);
    return true;
  } catch (error) {
    if (errorCode(error) === 'EEXIST' || errorCode(error) === 'ENOENT') throw error;
    ignore(error, 'this filesystem cannot share extents between files');
    return false;
  }
}

async function intoNewFile(
  from: string,
  to: string,
  write: (target: number, chunk: Buffer, at: number) => void,
): Promise<FileHandle> {
  await using source = await open(from, 'r');
  const { size } = await source.stat();
  // O_EXCL: a new file, and not through a symbolic link.
  const target = await open(to, 'wx+', 0o600);
  try {
    await target.truncate(size);
    await eachChunk(source, (chunk, at) => write(target.fd, chunk, at));
    return target;
  } catch (error) {
    await target.close();
    await rm(to, { force: true });
    throw error;
  }
}

async function intoOldFile(
  from: string,
  to: string,
  copy: (source: FileHandle, target: FileHandle) => Promise<void>,
): Promise<void> {
  await using source = await open(from, 'r');
  await using target = await open(to, 'r+');
  const { size } = await source.stat();
  if ((await target.stat()).size !== size) throw new Error(`${to} differs in size from ${from}`);
  await copy(source, target);
}

/**
 * Chunks begin at page boundaries, since blocks of a filesystem are multiples of pages or are rounded to them. They end
 * at multiples of `CHUNK_BYTES`, so that runs of data do not depend on holes.
 */
export async function eachChunk(file: FileHandle, visit: (chunk: Buffer, at: number) => void): Promise<void> {
  const buffer = Buffer.allocUnsafe(CHUNK_BYTES);
  let sinceTurn = 0;
  let done = 0;
  for (const extent of dataExtents(file.fd)) {
    let at = Math.max(done, extent.start - (extent.start % PAGE_BYTES));
    while (at < extent.end) {
      const wanted = Math.min(CHUNK_BYTES - (at % CHUNK_BYTES), roundUp(extent.end) - at);
      const bytes = readSync(file.fd, buffer, 0, wanted, at);
      if (bytes === 0) throw new Error('a file shrank while it was read');
      visit(buffer.subarray(0, bytes), at);
      at += bytes;
      sinceTurn += bytes;
      if (sinceTurn < TURN_BYTES) continue;
      sinceTurn = 0;
      await nextTurn();
    }
    done = at;
  }
}

/** Runs of adjacent pages that are not all zeros. */
export function nonZeroRuns(chunk: Uint8Array): { start: number; end: number }[] {
  const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length);
  const runs: { start: number; end: number }[] = [];
  for (let start = 0; start < bytes.length; start += PAGE_BYTES) {
    const end = Math.min(start + PAGE_BYTES, bytes.length);
    const zero = ZERO_PAGE.compare(bytes, start, end, 0, end - start) === 0;
    const last = runs.at(-1);
    if (zero) continue;
    if (last?.end === start) last.end = end;
    else runs.push({ start, end });
  }
  return runs;
}

export function writeAll(fd: number, chunk: Buffer, at: number): void {
  for (let done = 0; done < chunk.length; ) {
    done += writeSync(fd, chunk, done, chunk.length - done, at + done);
  }
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;
}
