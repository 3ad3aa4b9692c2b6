/** Reads files of `ram-difference.ts`, and applies them to RAM in a file. */
import { readSync, writeSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { MIB } from '../../base/units.ts';
import { PAGE_BYTES } from '../../sys/memory.ts';
import type { RamDifference } from './driver.ts';
import {
  DATA_OFFSET,
  DIFFERENCE_HEADER_BYTES,
  parseDifferenceHeader,
  parseDifferenceTable,
  type RamRun,
  tableBytes,
  tableOffset,
} from './ram-difference.ts';
import { loadRefused } from './snapshot.ts';

export interface OpenDifference extends AsyncDisposable {
  readonly fd: number;
  readonly runs: readonly RamRun[];
}

/**
 * Opens a difference and validates its table. The caller has verified its digest, or has just written it.
 * @param ramBytes RAM of the VM
 * @throws VmmError `snapshot_refused`
 */
export async function openDifference({ path, baseDigest }: RamDifference, ramBytes: number): Promise<OpenDifference> {
  const file = await open(path, 'r').catch((error: unknown) => {
    throw loadRefused(error);
  });
  try {
    const { size } = await file.stat();
    const head = read(file.fd, Math.min(size, DIFFERENCE_HEADER_BYTES), 0);
    const header = parseDifferenceHeader(head, size, { ramBytes, baseDigest });
    const table = read(file.fd, tableBytes(header), tableOffset(header));
    const runs = parseDifferenceTable(table, header);
    return { fd: file.fd, runs, [Symbol.asyncDispose]: () => file.close() };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/**
 * Reads the RAM of all runs, part by part.
 * @param chunk receives each part, from its beginning
 * @param visit `offset` in the RAM
 */
export async function eachDataChunk(
  { fd, runs }: Pick<OpenDifference, 'fd' | 'runs'>,
  chunk: Uint8Array,
  visit: (part: { readonly offset: number; readonly bytes: number }) => void,
): Promise<void> {
  let at = DATA_OFFSET;
  let sinceTurn = 0;
  for (const { page, pages, isZero } of runs) {
    const end = (page + pages) * PAGE_BYTES;
    for (let offset = page * PAGE_BYTES; offset < end; ) {
      const bytes = Math.min(chunk.length, end - offset);
      if (isZero) chunk.fill(0, 0, bytes);
      else {
        readAll(fd, chunk.subarray(0, bytes), at);
        at += bytes;
      }
      visit({ offset, bytes });
      offset += bytes;
      sinceTurn += bytes;
      if (sinceTurn < MIB) continue;
      sinceTurn = 0;
      await nextTurn();
    }
  }
}

/** Applies a difference to a file with the RAM that it is based on. @throws as `openDifference` */
export async function applyDifference(difference: RamDifference, ramPath: string): Promise<void> {
  await using ram = await open(ramPath, 'r+');
  await using file = await openDifference(difference, (await ram.stat()).size);
  const chunk = Buffer.allocUnsafe(MIB);
  await eachDataChunk(file, chunk, ({ offset, bytes }) => writeAll(ram.fd, chunk.subarray(0, bytes), offset));
}

export function writeAll(fd: number, bytes: Uint8Array, at: number): void {
  for (let done = 0; done < bytes.length; ) {
    done += writeSync(fd, bytes, done, bytes.length - done, at + done);
  }
}

/** Writes many small pieces one after the other. */
export class BufferedWriter {
  readonly #fd: number;
  readonly #buffer = Buffer.allocUnsafe(MIB);
  #held = 0;
  #written: number;

  /** @param at position of the first byte */
  constructor(fd: number, at: number) {
    this.#fd = fd;
    this.#written = at;
  }

  get end(): number {
    return this.#written + this.#held;
  }

  add(bytes: Uint8Array, start = 0, end = bytes.length): void {
    for (let at = start; at < end; ) {
      const part = bytes.subarray(at, Math.min(end, at + this.#buffer.length - this.#held));
      this.#buffer.set(part, this.#held);
      this.#held += part.length;
      at += part.length;
      if (this.#held === this.#buffer.length) this.flush();
    }
  }

  flush(): void {
    writeAll(this.#fd, this.#buffer.subarray(0, this.#held), this.#written);
    this.#written += this.#held;
    this.#held = 0;
  }
}

function read(fd: number, bytes: number, at: number): Buffer {
  const buffer = Buffer.alloc(bytes);
  readAll(fd, buffer, at);
  return buffer;
}

function readAll(fd: number, into: Uint8Array, at: number): void {
  for (let done = 0; done < into.length; ) {
    const count = readSync(fd, into, done, into.length - done, at + done);
    if (count === 0) throw loadRefused('a file shrank while it was read');
    done += count;
  }
}
