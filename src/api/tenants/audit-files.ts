/** The files of an audit log: full ones, the current one, and two that name the last record and the last removed one. */
import {
  type FileHandle,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { CHAIN_START, type ChainEnd, lineHash, parseRecord } from './audit-record.ts';
import { TenantError } from './errors.ts';

/** Which log of a home. */
export type AuditKind = 'calls' | 'models' | 'content';

/** A file that is only appended to. */
export type AuditFile = Pick<FileHandle, 'appendFile' | 'truncate' | 'close'>;

export const CURRENT = 'audit.jsonl';

export const FULL = /^audit-(\d{12})\.jsonl$/;

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

export const auditDir = (homeDir: string, kind: AuditKind = 'calls'): string =>
  join(homeDir, 'audit', ...(kind === 'calls' ? [] : [kind]));

export interface Opened {
  readonly file: AuditFile;
  readonly bytes: number;
  readonly firstSeq: number;
  readonly end: ChainEnd;
}

export async function openFiles(dir: string, openFile: typeof openCurrent): Promise<Opened> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const known = (await readHead(dir)) ?? CHAIN_START;
  const { full } = await filesIn(dir);
  const path = join(dir, CURRENT);
  await cutTorn(path);
  const file = await openFile(path);
  const { size } = await stat(path);
  const last = full.at(-1);
  const [first, end] = await endsOf(path);
  const before = end !== null || last === undefined ? null : (await endsOf(join(dir, last)))[1];
  const onDisk = end ?? before ?? CHAIN_START;
  // If the end was cut off, numbering continues after it, so the gap stays visible.
  const seq = Math.max(onDisk.seq, known.seq);
  return { file, bytes: size, firstSeq: first ?? seq + 1, end: { seq, hash: onDisk.hash } };
}

/** Number of the first record, and the last one, of a file; null: none. */
async function endsOf(path: string): Promise<readonly [number | null, ChainEnd | null]> {
  const bytes = await readIfThere(path);
  const whole = bytes.lastIndexOf(NEWLINE);
  if (whole < 0) return [null, null];
  const text = (from: number, to: number): string => bytes.subarray(from, to).toString('utf8');
  const first = text(0, bytes.indexOf(NEWLINE));
  const last = text(whole === 0 ? 0 : bytes.lastIndexOf(NEWLINE, whole - 1) + 1, whole);
  // A changed line has no number: then the known end gives the next one.
  const end = { seq: parseRecord(last)?.seq ?? 0, hash: lineHash(last) };
  return [parseRecord(first)?.seq ?? null, end];
}

/** Cuts off what follows the last newline. */
async function cutTorn(path: string): Promise<void> {
  const bytes = await readIfThere(path);
  const whole = bytes.lastIndexOf(NEWLINE) + 1;
  if (whole < bytes.length) await truncate(path, whole);
}

const NEWLINE = 0x0a;

async function readIfThere(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
    ignore(error, 'there is no log yet');
    return Buffer.alloc(0);
  }
}

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
    const [, end] = await endsOf(path);
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
