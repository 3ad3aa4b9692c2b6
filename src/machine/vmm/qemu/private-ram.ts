/**
 * RAM that QEMU maps privately (`share=off`): the file has the pages that all clones of a template share, and QEMU's
 * own pages have this guest's changes. Only QEMU's address space shows both.
 */
import { openSync, readFileSync, readSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { MIB } from '../../../base/units.ts';
import { closeFd, type FileIdentity, fileIdentity, fileSize, isSealed } from '../../../sys/fd.ts';
import { allocateNative, PAGE_BYTES } from '../../../sys/memory.ts';
import { openProcessMemory, readProcess, writeProcess } from '../../../sys/process-memory.ts';
import { eachDataChunk, type OpenDifference, writeAll } from '../difference-file.ts';
import type { ChangesRoom } from '../driver.ts';
import { VmmError } from '../errors.ts';
import { CapturedDifference } from './captured-difference.ts';

/** A piece of the file in QEMU's address space. */
interface Piece {
  readonly address: number;
  readonly bytes: number;
  readonly offset: number;
}

interface OwnRun {
  readonly memoryFd: number;
  /** Address in QEMU's address space. */
  readonly from: number;
  /** Offset in the RAM. */
  readonly offset: number;
  readonly bytes: number;
}

const CHUNK_BYTES = MIB;
/** Read and compared before other work of this thread gets a turn: about 2 ms. */
const TURN_BYTES = 2 * MIB;
/** Scanning a chunk without own pages takes as long as reading these bytes. */
const SCAN_COST_BYTES = 32 * 1024;
/** Words of /proc/PID/pagemap: 64 bits a page (kernel, Documentation/admin-guide/mm/pagemap.rst). */
const WORD_BYTES = 8;
/** In the upper half of a word: 63 present, 62 swapped, 61 page of a file or shared. */
const IS_THERE = 0xc000_0000;
const IS_SHARED = 0x2000_0000;

const REMEDY = 'Allow reading it (CAP_SYS_PTRACE, kernel.yama.ptrace_scope), or set NEUROVISOR_MEMORY_SHARING=copy.';

export class PrivateRam {
  /** The file, for QEMU to open it again. */
  readonly fd: number;
  readonly #bytes: number;
  #inQemu: { readonly pieces: readonly Piece[]; memoryFd: number; pagemapFd: number } | undefined;
  #isClosed = false;

  /**
   * @param path a memfd
   * @throws VmmError `vm_spec_invalid`
   */
  static open(path: string, bytes: number): PrivateRam {
    let fd = -1;
    try {
      // QEMU 7.2 opens it for writing, which the seal makes harmless.
      fd = openSync(path, 'r+');
      const size = fileSize(fd);
      if (size !== bytes) throw new Error(`it has ${size} of ${bytes} bytes`);
      return new PrivateRam(fd, bytes);
    } catch (cause) {
      if (fd >= 0) closeFd(fd);
      throw new VmmError('vm_spec_invalid', "the clone's RAM can not be mapped", { cause });
    }
  }

  private constructor(fd: number, bytes: number) {
    this.fd = fd;
    this.#bytes = bytes;
  }

  /**
   * Call before guest code runs: a VMM that could write the file would change the memory of later clones.
   * @throws VmmError `vm_spec_invalid`
   */
  requireSealed(): void {
    if (this.#isClosed) throw gone();
    if (isSealed(this.fd)) return;
    throw new VmmError('vm_spec_invalid', "the clone's RAM can not be mapped", {
      cause: 'it is not sealed against writing',
    });
  }

  /** @throws VmmError `vm_gone` */
  identity(): FileIdentity {
    if (this.#isClosed) throw gone();
    return fileIdentity(this.fd);
  }

  /**
   * Finds the memory in QEMU before guest code runs, while the pid certainly belongs to an intact QEMU.
   * @throws VmmError `vmm_command_failed`
   */
  find(pid: number | null): void {
    // For a cancelled start: its descriptor's number may belong to another memory, and files opened here would stay
    // open.
    if (this.#isClosed) throw gone();
    const subject = "the guest's RAM was not found in QEMU";
    try {
      const maps = readFileSync(`/proc/${pid}/maps`, 'latin1');
      const pieces = piecesOf(maps, fileIdentity(this.fd)).sort((a, b) => a.offset - b.offset);
      const found = pieces.reduce((sum, piece) => sum + piece.bytes, 0);
      if (found !== this.#bytes) throw new Error(`${found} of ${this.#bytes} bytes are mapped`);
      const memoryFd = openProcessMemory(pid ?? 0);
      this.#inQemu = { pieces, memoryFd, pagemapFd: -1 };
      this.#inQemu.pagemapFd = openSync(`/proc/${pid}/pagemap`, 'r');
    } catch (cause) {
      throw new VmmError('vmm_command_failed', subject, { cause, remedy: REMEDY });
    }
  }

  /**
   * Makes the pages of a difference QEMU's own. Call after `find`, before a state is loaded.
   * @throws VmmError `snapshot_refused`, `vm_gone`; an errno error of the file
   */
  async load(difference: OpenDifference): Promise<void> {
    const { address, buffer } = allocateNative(CHUNK_BYTES);
    const chunk = new Uint8Array(buffer);
    await eachDataChunk(difference, chunk, ({ offset, bytes }) => {
      for (const part of this.#inMemory(offset, bytes)) {
        const from = address + part.offset - offset;
        if (writeProcess(part.memoryFd, from, part.address, part.bytes) !== part.bytes) throw gone();
      }
    });
  }

  /** Bytes of QEMU's own pages, also while it runs. @throws VmmError `vm_gone` */
  async ownBytes(): Promise<number> {
    let total = 0;
    await this.#eachOwnRun(({ bytes }) => {
      total += bytes;
    });
    return total;
  }

  /**
   * Writes QEMU's own pages to their places in a file that has the shared ones. The VM is stopped.
   * @returns bytes written
   * @throws VmmError `vm_gone`; an errno error of the file
   */
  async writeOwnPages(fd: number): Promise<number> {
    const { address, buffer } = allocateNative(CHUNK_BYTES);
    const chunk = new Uint8Array(buffer);
    let total = 0;
    await this.#eachOwnRun(({ memoryFd, from, offset, bytes }) => {
      if (readProcess(memoryFd, from, address, bytes) !== bytes) throw gone();
      writeAll(fd, chunk.subarray(0, bytes), offset);
      total += bytes;
    });
    return total;
  }

  /**
   * Reads QEMU's own pages. The VM is stopped, and may run again afterwards: finding and writing the pages that differ
   * from the shared ones takes several times as long.
   * @param path of a new file for the difference
   * @param room from `makeRoom`
   * @returns the captured pages, for the caller to write or close
   * @throws VmmError `vm_gone`; an errno error of the file
   */
  async captureDifference(path: string, baseDigest: string, room?: ChangesRoom): Promise<CapturedDifference> {
    const captured = await CapturedDifference.open(path, this.fd, this.#bytes, baseDigest, room);
    try {
      await this.#eachOwnRun(({ memoryFd, from, offset, bytes }) => {
        const address = captured.place(offset, bytes);
        if (readProcess(memoryFd, from, address, bytes) !== bytes) throw gone();
      });
      return captured;
    } catch (error) {
      await captured.close();
      throw error;
    }
  }

  /** Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const { memoryFd = -1, pagemapFd = -1 } = this.#inQemu ?? {};
    this.#inQemu = undefined;
    for (const fd of [this.fd, memoryFd, pagemapFd]) if (fd >= 0) closeFd(fd);
  }

  /**
   * Visits the runs of own pages in the order of the RAM, each at most `CHUNK_BYTES` long. Uses no descriptor after
   * `close`, which the end of the VM calls: its number may belong to another VM's memory by then.
   * @throws VmmError `vm_gone`
   */
  async #eachOwnRun(visit: (run: OwnRun) => void): Promise<void> {
    if (this.#inQemu === undefined) throw gone();
    const { pieces, memoryFd } = this.#inQemu;
    let work = 0;
    for (const piece of pieces) {
      for (let at = 0; at < piece.bytes; at += CHUNK_BYTES) {
        const end = Math.min(at + CHUNK_BYTES, piece.bytes);
        const runs = this.#ownRuns(piece.address + at, (end - at) / PAGE_BYTES);
        for (const { start, bytes } of runs) {
          const from = piece.address + at + start;
          visit({ memoryFd, from, offset: piece.offset + at + start, bytes });
        }
        work += SCAN_COST_BYTES + runs.reduce((sum, { bytes }) => sum + bytes, 0);
        if (work < TURN_BYTES) continue;
        work = 0;
        await nextTurn();
        if (this.#isClosed) throw gone();
      }
    }
    await nextTurn();
    if (this.#isClosed) throw gone();
  }

  /** Address of a part of the RAM in QEMU. @throws VmmError `vm_gone` */
  #inMemory(offset: number, bytes: number): (Piece & { readonly memoryFd: number })[] {
    if (this.#inQemu === undefined) throw gone();
    const { pieces, memoryFd } = this.#inQemu;
    return pieces.flatMap((piece) => {
      const start = Math.max(offset, piece.offset);
      const end = Math.min(offset + bytes, piece.offset + piece.bytes);
      if (start >= end) return [];
      const address = piece.address + start - piece.offset;
      return [{ memoryFd, address, offset: start, bytes: end - start }];
    });
  }

  /** Runs of own pages among `pages` from `address` on; offsets are relative to it. */
  #ownRuns(address: number, pages: number): { start: number; bytes: number }[] {
    const words = new Uint32Array((pages * WORD_BYTES) / 4);
    const place = (address / PAGE_BYTES) * WORD_BYTES;
    const read = readSync(this.#inQemu?.pagemapFd ?? -1, words, 0, words.byteLength, place);
    if (read !== words.byteLength) throw gone();
    const runs: { start: number; bytes: number }[] = [];
    for (let page = 0; page < pages; page += 1) {
      const word = words[2 * page + 1] ?? 0;
      if ((word & IS_THERE) === 0 || (word & IS_SHARED) !== 0) continue;
      const start = page * PAGE_BYTES;
      const last = runs.at(-1);
      if (last !== undefined && last.start + last.bytes === start) last.bytes += PAGE_BYTES;
      else runs.push({ start, bytes: PAGE_BYTES });
    }
    return runs;
  }
}

function gone(): VmmError {
  return new VmmError('vm_gone', "QEMU's memory can not be read", { cause: 'it has ended' });
}

/** Private mappings of a file. @param maps /proc/PID/maps (proc_pid_maps(5)) */
export function piecesOf(maps: string, { dev, ino }: FileIdentity): Piece[] {
  const device = `${hex(Number((dev >> 8n) & 0xfffn))}:${hex(Number((dev & 0xffn) | ((dev >> 12n) & 0xfff00n)))}`;
  return maps.split('\n').flatMap((line) => {
    const [range = '', rights = '', offset = '', ofDevice, inode] = line.split(/ +/);
    if (ofDevice !== device || inode !== String(ino) || !rights.endsWith('p')) return [];
    const [from = 0, to = 0] = range.split('-').map((part) => Number.parseInt(part, 16));
    return [{ address: from, bytes: to - from, offset: Number.parseInt(offset, 16) }];
  });
}

const hex = (value: number): string => value.toString(16).padStart(2, '0');
