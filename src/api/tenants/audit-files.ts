/** The files of an audit log: full ones, the current one, and two that name the last record and the last removed one. */
import { type FileHandle, open, readdir, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { errorCode, ifThere } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { KIB } from '../../base/units.ts';
import { CHAIN_START, type ChainEnd, lineHash, parseRecord } from './audit-record.ts';
import { TenantError } from './errors.ts';
import { TENANT_NAME } from './limits.ts';
import { checkTenantName } from './owner.ts';

/** Which log of a home. */
export type AuditKind = 'calls' | 'models' | 'content';

/** Which log of a kind: `tenant` is null for the operator's. */
export interface AuditPlace {
  readonly kind: AuditKind;
  readonly tenant: string | null;
}

/** A file that is only appended to. */
export type AuditFile = Pick<FileHandle, 'appendFile' | 'truncate' | 'close'>;

export const CURRENT = 'audit.jsonl';

export const FULL = /^audit-(\d{12})\.jsonl$/;

const TENANTS = 'tenants';
const HEAD = 'head.json';
const REMOVED = 'removed.json';

const chainEnd = z.object({ seq: z.number().int().nonnegative(), hash: z.string() });

/** Names of a log's files. */
export interface LogFiles {
  /** Oldest first. */
  readonly full: readonly string[];
  /** One, or none: after a failed rotation, and where somebody has removed it. */
  readonly current: readonly string[];
}

/** @throws TenantError `not_found`, `file_failed` */
export async function listFiles(dir: string): Promise<LogFiles> {
  try {
    return await filesIn(dir);
  } catch (error) {
    throw readFailure(dir, error);
  }
}

export function readFailure(dir: string, error: unknown): TenantError {
  if (error instanceof TenantError) return error;
  if (errorCode(error) === 'ENOENT') return noLog(dir);
  return new TenantError('file_failed', `could not read the audit log in ${dir}`, { cause: error });
}

export const noLog = (dir: string): TenantError =>
  new TenantError('not_found', `there is no audit log in ${dir}`, {
    remedy: 'the daemon begins one when it starts; set NEUROVISOR_HOME to read that of another home',
  });

/** @param tenant `null` for the operator's. @throws TenantError `invalid` for what is not a tenant's name */
export function auditDir(homeDir: string, kind: AuditKind = 'calls', tenant: string | null = null): string {
  if (tenant !== null) checkTenantName(tenant);
  const own = tenant === null ? [] : [TENANTS, tenant];
  return join(homeDir, 'audit', ...own, ...(kind === 'calls' ? [] : [kind]));
}

/** Tenants that have logs, sorted. @throws the file system's error */
export async function auditTenants(homeDir: string): Promise<readonly string[]> {
  const names = (await ifThere(readdir(join(homeDir, 'audit', TENANTS)))) ?? [];
  return names.filter((name) => TENANT_NAME.test(name)).sort();
}

/** What a log has on the disk. */
export interface LogState {
  /** Of the current file. */
  readonly bytes: number;
  readonly firstSeq: number;
  readonly end: ChainEnd;
}

export const NO_FILES: LogState = { bytes: 0, firstSeq: 1, end: CHAIN_START };

/** Cuts off a last line that was written partly. */
export async function readState(dir: string): Promise<LogState> {
  const { full } = (await ifThere(filesIn(dir))) ?? { full: [] };
  const known = (await readHead(dir)) ?? CHAIN_START;
  const path = join(dir, CURRENT);
  const { bytes, first, end, isTorn } = await endsOf(path);
  if (isTorn) await truncate(path, bytes);
  const last = full.at(-1);
  const before = end !== null || last === undefined ? null : (await endsOf(join(dir, last))).end;
  const onDisk = end ?? before ?? CHAIN_START;
  // If the end was cut off, numbering continues after it, so the gap stays visible.
  const seq = Math.max(onDisk.seq, known.seq);
  return { bytes, firstSeq: first ?? seq + 1, end: { seq, hash: onDisk.hash } };
}

interface FileEnds {
  /** Of whole lines. */
  readonly bytes: number;
  /** Number of the first record; null: none. */
  readonly first: number | null;
  /** The last record; null: none. */
  readonly end: ChainEnd | null;
  /** Something follows the last newline. */
  readonly isTorn: boolean;
}

/** Reads only the ends: a file may be large. */
async function endsOf(path: string): Promise<FileEnds> {
  const file = await ifThere(open(path, 'r'));
  if (file === undefined) return { bytes: 0, first: null, end: null, isTorn: false };
  await using _ = file;
  const { size } = await file.stat();
  const last = await lastLine(file, size);
  if (last === null) return { bytes: 0, first: null, end: null, isTorn: size > 0 };
  const first = await firstLine(file, size);
  // A changed line has no number: then the known end gives the next one.
  const end = { seq: parseRecord(last.text)?.seq ?? 0, hash: lineHash(last.text) };
  return { bytes: last.endsAt, first: parseRecord(first)?.seq ?? null, end, isTorn: last.endsAt < size };
}

async function lastLine(file: FileHandle, size: number): Promise<{ text: string; endsAt: number } | null> {
  for (let length = END_BYTES; ; length *= 8) {
    const from = Math.max(0, size - length);
    const bytes = await slice(file, from, size);
    const newline = bytes.lastIndexOf(NEWLINE);
    const before = newline <= 0 ? -1 : bytes.lastIndexOf(NEWLINE, newline - 1);
    if (from > 0 && before < 0) continue;
    if (newline < 0) return null;
    return { text: bytes.toString('utf8', before + 1, newline), endsAt: from + newline + 1 };
  }
}

/** Of a file that has a whole line. */
async function firstLine(file: FileHandle, size: number): Promise<string> {
  for (let length = END_BYTES; ; length *= 8) {
    const bytes = await slice(file, 0, Math.min(length, size));
    const newline = bytes.indexOf(NEWLINE);
    if (newline >= 0) return bytes.toString('utf8', 0, newline);
    if (length >= size) return '';
  }
}

async function slice(file: FileHandle, from: number, to: number): Promise<Buffer> {
  const buffer = Buffer.alloc(to - from);
  const { bytesRead } = await file.read(buffer, 0, buffer.length, from);
  return buffer.subarray(0, bytesRead);
}

/** Read at each end of a file at first: longer than most lines. */
const END_BYTES = 16 * KIB;
const NEWLINE = 0x0a;

/** Only appends, also if somebody else writes. */
export const openCurrent = async (path: string): Promise<AuditFile> => await open(path, 'a', 0o600);

export async function filesIn(dir: string): Promise<LogFiles> {
  const names = await readdir(dir);
  return { full: names.filter((name) => FULL.test(name)).sort(), current: names.filter((name) => name === CURRENT) };
}

/** Removes the oldest full files beyond `filesMax`, and notes first where the log then begins. */
export async function removeOldest(dir: string, filesMax: number): Promise<void> {
  for (const name of (await filesIn(dir)).full.slice(0, -filesMax)) {
    const path = join(dir, name);
    const { end } = await endsOf(path);
    // If somebody changed its end, what is missing stays visible.
    if (end !== null && end.seq > 0) await writeEnd(dir, REMOVED, end);
    await rm(path);
  }
}

export const writeHead = (dir: string, end: ChainEnd): Promise<void> => writeEnd(dir, HEAD, end);

/** Null: there is none. */
export const readHead = (dir: string): Promise<ChainEnd | null> => readEnd(dir, HEAD);

/** The last record of the removed files. Null: none was removed. */
export const readRemoved = (dir: string): Promise<ChainEnd | null> => readEnd(dir, REMOVED);

async function writeEnd(dir: string, name: string, end: ChainEnd): Promise<void> {
  const draft = join(dir, `${name}.new`);
  await writeFile(draft, `${JSON.stringify(end)}\n`, { mode: 0o600 });
  await rename(draft, join(dir, name));
}

async function readEnd(dir: string, name: string): Promise<ChainEnd | null> {
  try {
    return chainEnd.parse(JSON.parse(await readFile(join(dir, name), 'utf8')));
  } catch (error) {
    if (errorCode(error) !== 'ENOENT' && !(error instanceof SyntaxError)) throw error;
    ignore(error, 'nothing was written yet, or the machine stopped meanwhile');
    return null;
  }
}
