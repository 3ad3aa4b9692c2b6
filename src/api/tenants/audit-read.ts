/** Reads the records of an audit log, from its oldest file to the current one, even while a daemon writes. */
import { type FileHandle, open, stat } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { MIB } from '../../base/units.ts';
import { auditPath, fullAuditFiles } from './audit.ts';
import type { AuditKind } from './audit-files.ts';
import { type AuditRecord, lineHash, parseRecord } from './audit-record.ts';
import { TenantError } from './errors.ts';

const READ_BYTES = 256 * 1024;
/** A longer line is no record. */
const LINE_BYTES_MAX = 8 * MIB;
const NEWLINE = 0x0a;
const POLL_MS = 500;

export interface AuditQuery {
  readonly kind?: AuditKind;
  /** Number of a record; older files are not read. */
  readonly fromSeq?: number;
  /** If true, also yields what is written from now on, until the signal aborts. */
  readonly follow?: boolean;
  readonly signal?: AbortSignal;
}

export interface AuditLine {
  readonly record: AuditRecord;
  readonly text: string;
}

/** Skips lines that are no records, which `audit verify` reports. @throws TenantError `not_found`, `file_failed` */
export async function* readAudit(homeDir: string, query: AuditQuery = {}): AsyncGenerator<AuditLine> {
  const { kind = 'calls', follow = false, signal } = query;
  let { fromSeq = 0 } = query;
  let isAgain = false;
  do {
    const { full, current } = await openFiles(homeDir, kind);
    await using _ = current.file;
    const older = full
      .filter((_, index) => (full[index + 1]?.firstSeq ?? Number.POSITIVE_INFINITY) > fromSeq)
      .map(({ path }) => linesOfFull(path));
    for (const lines of [...older, linesOf(current, { follow, signal })]) {
      for await (const text of lines) {
        const record = parseRecord(text);
        if (record === null || (isAgain && record.seq < fromSeq)) continue;
        yield { record, text };
        fromSeq = record.seq + 1;
      }
    }
    // The current file is full: start again where it ended, since there may be several new ones.
    isAgain = true;
  } while (follow && signal?.aborted !== true);
}

/** The record with this number; `null` if there is none. @throws as `readAudit` */
export async function findAudit(
  homeDir: string,
  kind: AuditKind,
  seq: number,
): Promise<(AuditLine & { readonly hash: string }) | null> {
  for await (const line of readAudit(homeDir, { kind, fromSeq: seq })) {
    if (line.record.seq === seq) return { ...line, hash: lineHash(line.text) };
    if (line.record.seq > seq) return null;
  }
  return null;
}

/** Numbers of requests whose content differs from what their record names; removed contents do not count. */
export async function changedContents(homeDir: string): Promise<readonly number[]> {
  const changed: number[] = [];
  const contents = readAudit(homeDir, { kind: 'content' });
  let content = await contents.next();
  // Both logs have the same order.
  for await (const { record } of readAudit(homeDir, { kind: 'models' })) {
    const named = record.model?.content;
    if (named === undefined) continue;
    while (content.done !== true && content.value.record.seq < named.seq) {
      content = await contents.next();
    }
    if (content.done === true) break;
    const { record: there, text } = content.value;
    if (there.seq === named.seq && lineHash(text) !== named.sha256) changed.push(record.seq);
  }
  await contents.return(undefined);
  return changed;
}

interface OpenFile {
  readonly path: string;
  /** `null` if there is none. */
  readonly file: FileHandle | null;
}

/**
 * The full files of a log, oldest first, and the current one, which the caller closes. If that one was rotated
 * meanwhile, its records would be repeated, or those of its successor missed, so all are opened again.
 */
async function openFiles(
  homeDir: string,
  kind: AuditKind,
): Promise<{
  readonly full: readonly { readonly path: string; readonly firstSeq: number }[];
  readonly current: OpenFile;
}> {
  for (;;) {
    const path = auditPath(homeDir, kind);
    await using opened = new AsyncDisposableStack();
    const file = opened.use(await openIfThere(path));
    const full = await fullAuditFiles(homeDir, kind);
    const { named, ours } = await inodesOf(path, file);
    if (named !== ours) continue;
    opened.move();
    return { full, current: { path, file } };
  }
}

async function* linesOfFull(path: string): AsyncGenerator<string> {
  await using file = await openIfThere(path);
  yield* linesOf({ path, file }, {});
}

/** @param follow ends once another file has the name, or the signal aborts */
async function* linesOf(
  { path, file }: OpenFile,
  { follow = false, signal }: { readonly follow?: boolean; readonly signal?: AbortSignal | undefined },
): AsyncGenerator<string> {
  const buffer = Buffer.allocUnsafe(READ_BYTES);
  let held: Buffer[] = [];
  let heldBytes = 0;
  // Another file has its name: nothing more is written to this one, but something may be unread.
  let isFull = false;
  try {
    while (signal?.aborted !== true) {
      const { bytesRead } = file === null ? { bytesRead: 0 } : await file.read(buffer);
      if (bytesRead === 0) {
        if (!follow) return;
        if (isFull) return;
        if (await hasSuccessor(path, file)) isFull = true;
        else await delay(POLL_MS, undefined, { signal }).catch(ignoreAbort);
        continue;
      }
      let start = 0;
      for (let at = buffer.indexOf(NEWLINE); at >= 0 && at < bytesRead; ) {
        const line = Buffer.concat([...held, buffer.subarray(start, at)]);
        held = [];
        if (heldBytes <= LINE_BYTES_MAX) yield line.toString('utf8');
        heldBytes = 0;
        start = at + 1;
        at = buffer.indexOf(NEWLINE, start);
      }
      heldBytes += bytesRead - start;
      // Copied, since the buffer is reused.
      if (heldBytes <= LINE_BYTES_MAX) held.push(Buffer.from(buffer.subarray(start, bytesRead)));
      else held = [];
    }
  } catch (error) {
    throw new TenantError('file_failed', `could not read ${path}`, { cause: error });
  }
}

async function hasSuccessor(path: string, file: FileHandle | null): Promise<boolean> {
  const { named, ours } = await inodesOf(path, file);
  return named !== undefined && named !== ours;
}

/** Inodes of the file with this name, and of the open one; undefined if there is none. */
async function inodesOf(
  path: string,
  file: FileHandle | null,
): Promise<{ readonly named: number | undefined; readonly ours: number | undefined }> {
  const there = await stat(path).catch(ignoreMissing);
  return { named: there?.ino, ours: (await file?.stat())?.ino };
}

async function openIfThere(path: string): Promise<FileHandle | null> {
  try {
    return await open(path, 'r');
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') {
      throw new TenantError('file_failed', `could not read ${path}`, { cause: error });
    }
    ignore(error, 'the oldest file goes, and the current one is renamed');
    return null;
  }
}

function ignoreMissing(error: unknown): undefined {
  if (errorCode(error) !== 'ENOENT') throw error;
  ignore(error, 'between two files');
}

function ignoreAbort(error: unknown): void {
  ignore(error, 'the reader has ended');
}
