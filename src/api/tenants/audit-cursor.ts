/**
 * A place in one audit log, from its oldest file to the current one, even while a daemon writes. It has no file open
 * between two reads, so that many logs can be read side by side.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { ifThere } from '../../base/errors.ts';
import { KIB, MIB } from '../../base/units.ts';
import { type AuditPlace, auditDir, CURRENT, FULL, listFiles } from './audit-files.ts';
import { type AuditRecord, parseRecord } from './audit-record.ts';
import { TenantError } from './errors.ts';

const CHUNK_BYTES = 256 * KIB;
/** A longer line is no record. */
const LINE_BYTES_MAX = 8 * MIB;
const NEWLINE = 0x0a;

export interface AuditLine {
  readonly record: AuditRecord;
  readonly text: string;
}

interface ReadFile {
  readonly name: string;
  readonly inode: number;
}

export class AuditCursor {
  readonly #dir: string;
  readonly #mayLack: boolean;
  readonly #chunkBytes: number;
  /** Number in the name of the last full file that was read, or the one below the first to read; null: none yet. */
  #after: number | null = null;
  readonly #fromSeq: number;
  #file: ReadFile | null = null;
  /** Of the first byte in that file that was not taken. */
  #offset = 0;
  #isInLongLine = false;
  /** Read, but not yet taken: whole lines, last one first. */
  #lines: Buffer[] = [];
  #head: (AuditLine & { readonly bytes: number }) | null = null;

  /**
   * @param fromSeq number of a record: older files are not read
   * @param chunkBytes read at once, at least a line
   */
  constructor(homeDir: string, { kind, tenant }: AuditPlace, { fromSeq = 0, chunkBytes = CHUNK_BYTES } = {}) {
    this.#dir = auditDir(homeDir, kind, tenant);
    this.#mayLack = tenant !== null;
    this.#fromSeq = fromSeq;
    this.#chunkBytes = chunkBytes;
  }

  /**
   * The next record; null: none is written yet. Skips lines that are no records, which `audit verify` reports.
   * @throws TenantError `not_found` without a log of the operator; `file_failed`
   */
  async peek(): Promise<AuditLine | null> {
    while (this.#head === null) {
      const line = this.#lines.pop();
      if (line === undefined) {
        if (!(await this.#fill())) return null;
        continue;
      }
      const bytes = line.length + 1;
      this.#offset += bytes;
      const text = line.toString('utf8');
      const record = parseRecord(text);
      if (record !== null) this.#head = { record, text, bytes };
    }
    return this.#head;
  }

  /** Takes the record that `peek` returned. */
  skip(): void {
    this.#head = null;
  }

  /** Frees what was read ahead, which is read again if it is needed. */
  release(): void {
    this.#offset -= this.#head?.bytes ?? 0;
    this.#head = null;
    this.#lines = [];
  }

  /** @returns false if nothing more is written yet */
  async #fill(): Promise<boolean> {
    for (;;) {
      this.#file ??= await this.#nextFile();
      if (this.#file === null) return false;
      if (await this.#readLines()) return true;
      if (this.#file?.name === CURRENT) return false;
      // A full file is at its end, or was removed.
      this.#after = Math.max(this.#after ?? 0, numberOf(this.#file?.name ?? ''));
      this.#file = null;
      this.#offset = 0;
      this.#isInLongLine = false;
    }
  }

  async #nextFile(): Promise<ReadFile | null> {
    for (;;) {
      const next = (await this.#fullFiles())[0] ?? CURRENT;
      await using file = await this.#openNamed(next);
      if (file === null && next === CURRENT) return null;
      // Removed, or rotated, since they were listed.
      if (file === null || (next === CURRENT && (await this.#fullFiles()).length > 0)) continue;
      return { name: next, inode: (await file.stat()).ino };
    }
  }

  /** Those that are still to be read, oldest first. */
  async #fullFiles(): Promise<readonly string[]> {
    const listed = this.#mayLack ? await ifThere(listFiles(this.#dir), 'not_found') : await listFiles(this.#dir);
    const full = listed?.full ?? [];
    const after = this.#after ?? Math.max(0, ...full.map(numberOf).filter((seq) => seq <= this.#fromSeq)) - 1;
    if (full.length > 0) this.#after = after;
    return full.filter((name) => numberOf(name) > after);
  }

  /** Opens the file that is being read, which was renamed if it is full by now. */
  async #openAgain({ name, inode }: ReadFile): Promise<FileHandle | null> {
    const same = await this.#openSame(name, inode);
    if (same !== null || name !== CURRENT) return same;
    // Listed only now: before, it might have been renamed meanwhile.
    for (const full of [...(await this.#fullFiles())].reverse()) {
      const renamed = await this.#openSame(full, inode);
      if (renamed !== null) return renamed;
    }
    this.#file = null;
    return null;
  }

  async #openSame(name: string, inode: number): Promise<FileHandle | null> {
    const file = await this.#openNamed(name);
    if (file === null) return null;
    if ((await file.stat()).ino === inode) {
      this.#file = { name, inode };
      return file;
    }
    await file.close();
    return null;
  }

  /** Null: the oldest one was removed, or the current one is being renamed. */
  async #openNamed(name: string): Promise<FileHandle | null> {
    return (await this.#reading(name, () => ifThere(open(join(this.#dir, name), 'r')))) ?? null;
  }

  async #reading<T>(name: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw new TenantError('file_failed', `could not read ${join(this.#dir, name)}`, { cause: error });
    }
  }

  /** @returns false at the end of the file, or if it is gone */
  async #readLines(): Promise<boolean> {
    if (this.#file === null) return false;
    await using file = await this.#openAgain(this.#file);
    if (file === null) return false;
    return await this.#reading(this.#file.name, () => this.#readFrom(file));
  }

  async #readFrom(file: FileHandle): Promise<boolean> {
    for (let size = this.#chunkBytes; ; size = Math.min(size * 8, LINE_BYTES_MAX)) {
      const buffer = Buffer.allocUnsafe(size);
      const { bytesRead } = await file.read(buffer, 0, size, this.#offset);
      const lines = linesOf(buffer.subarray(0, bytesRead));
      if (lines.length > 0) {
        this.#lines = lines.reverse();
        if (this.#isInLongLine) this.#offset += (this.#lines.pop()?.length ?? 0) + 1;
        this.#isInLongLine = false;
        return true;
      }
      if (bytesRead < size) return false;
      if (size < LINE_BYTES_MAX) continue;
      this.#offset += bytesRead;
      this.#isInLongLine = true;
    }
  }
}

/** Whole ones. */
function linesOf(bytes: Buffer): Buffer[] {
  const lines: Buffer[] = [];
  let start = 0;
  for (let at = bytes.indexOf(NEWLINE); at >= 0; at = bytes.indexOf(NEWLINE, start)) {
    lines.push(bytes.subarray(start, at));
    start = at + 1;
  }
  return lines;
}

const numberOf = (name: string): number => Number(FULL.exec(name)?.[1] ?? 0);
