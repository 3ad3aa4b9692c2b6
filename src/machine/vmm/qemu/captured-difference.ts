/**
 * Pages of a stopped VM, in memory until the VM runs again. Then those that differ from the shared ones go into a file.
 *
 *     stopped ─► place, read, … ─► runs again ─► write ─► close
 */
import { readSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { MIB } from '../../../base/units.ts';
import { addressOf, PAGE_BYTES } from '../../../sys/memory.ts';
import { BufferedWriter, writeAll } from '../difference-file.ts';
import type { ChangesRoom } from '../driver.ts';
import { DATA_OFFSET, differenceHeader, differenceTable, RunCollector } from '../ram-difference.ts';

/** The largest run of pages. */
const BUFFER_BYTES = 4 * MIB;
/** More is compared and written while the VM is still paused. */
const HELD_BYTES_MAX = 128 * MIB;
/**
 * Compared before other work of this thread gets a turn: about 0.5 ms. The guest comes back meanwhile, and forks start.
 */
const TURN_BYTES = MIB / 2;
const ZERO_PAGE = Buffer.alloc(PAGE_BYTES);

interface HeldRun {
  readonly offset: number;
  readonly pages: Buffer;
}

interface Room {
  readonly buffer: ArrayBuffer;
  used: number;
}

/** Allocated in advance: otherwise new pages for these buffers take a third of the time in which the VM is paused. */
export async function makeRoom(bytes: number): Promise<ChangesRoom> {
  const buffers: ArrayBuffer[] = [];
  for (let made = 0; made <= Math.min(bytes, HELD_BYTES_MAX); made += BUFFER_BYTES) {
    const buffer = new ArrayBuffer(BUFFER_BYTES);
    const pages = new Uint8Array(buffer);
    for (let at = 0; at < BUFFER_BYTES; at += PAGE_BYTES) pages[at] = 0;
    buffers.push(buffer);
    await nextTurn();
  }
  return { buffers };
}

export class CapturedDifference {
  readonly #file: FileHandle;
  /** The shared pages. Opened again: the VM closes its own descriptor when it ends. */
  readonly #base: FileHandle;
  readonly #whole: { readonly ramBytes: number; readonly baseDigest: string };
  readonly #found = new RunCollector();
  readonly #data: BufferedWriter;
  readonly #shared = Buffer.alloc(BUFFER_BYTES);
  #held: HeldRun[] = [];
  #heldBytes = 0;
  #room: Room | undefined;
  readonly #unused: ArrayBuffer[];

  /**
   * @param path of a new file
   * @param baseFd descriptor of the shared RAM
   */
  static async open(
    path: string,
    baseFd: number,
    ramBytes: number,
    baseDigest: string,
    room: ChangesRoom = { buffers: [] },
  ): Promise<CapturedDifference> {
    const base = await open(`/proc/self/fd/${baseFd}`, 'r');
    try {
      const file = await open(path, 'w', 0o600);
      return new CapturedDifference(file, base, { ramBytes, baseDigest }, room);
    } catch (error) {
      await base.close();
      throw error;
    }
  }

  private constructor(
    file: FileHandle,
    base: FileHandle,
    whole: { readonly ramBytes: number; readonly baseDigest: string },
    { buffers }: ChangesRoom,
  ) {
    this.#file = file;
    this.#base = base;
    this.#whole = whole;
    this.#unused = [...buffers];
    this.#data = new BufferedWriter(file.fd, DATA_OFFSET);
  }

  /**
   * Reserves room for a run of pages, in ascending order of `offset`. The caller fills it before it asks for more.
   * @param bytes whole pages, at most 4 MiB
   * @returns its address
   */
  place(offset: number, bytes: number): number {
    // Only as much as needed: all at once would hold up the answers of all sandboxes.
    while (this.#heldBytes + bytes > HELD_BYTES_MAX) {
      const oldest = this.#held.shift();
      if (oldest === undefined) break;
      this.#heldBytes -= oldest.pages.length;
      this.#note(oldest);
    }
    let room = this.#room;
    if (room === undefined || room.used + bytes > BUFFER_BYTES) {
      room = { buffer: this.#unused.pop() ?? new ArrayBuffer(BUFFER_BYTES), used: 0 };
      this.#room = room;
    }
    this.#held.push({ offset, pages: Buffer.from(room.buffer, room.used, bytes) });
    this.#heldBytes += bytes;
    room.used += bytes;
    return addressOf(room.buffer) + room.used - bytes;
  }

  /** @returns bytes of the file @throws an errno error of the file */
  async write(): Promise<number> {
    let sinceTurn = 0;
    for (const run of this.#take()) {
      this.#note(run);
      sinceTurn += run.pages.length;
      if (sinceTurn < TURN_BYTES) continue;
      sinceTurn = 0;
      await nextTurn();
    }
    this.#data.add(differenceTable(this.#found.runs));
    this.#data.flush();
    writeAll(this.#file.fd, differenceHeader(this.#found, this.#whole), 0);
    return this.#data.end;
  }

  async close(): Promise<void> {
    this.#take();
    await Promise.all([this.#file.close(), this.#base.close()]);
  }

  #take(): HeldRun[] {
    const held = this.#held;
    this.#held = [];
    this.#heldBytes = 0;
    this.#room = undefined;
    this.#unused.length = 0;
    return held;
  }

  #note({ offset, pages }: HeldRun): void {
    const { length } = pages;
    const shared = this.#shared;
    if (readSync(this.#base.fd, shared, 0, length, offset) !== length) throw new Error('the RAM shrank');
    for (let page = 0; page < length; page += PAGE_BYTES) {
      const end = page + PAGE_BYTES;
      if (pages.compare(shared, page, end, page, end) === 0) continue;
      const isZero = pages.compare(ZERO_PAGE, 0, PAGE_BYTES, page, end) === 0;
      this.#found.add((offset + page) / PAGE_BYTES, isZero);
      if (!isZero) this.#data.add(pages, page, end);
    }
  }
}
