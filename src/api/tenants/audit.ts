/**
 * The audit log: one line per control call, chained (`audit-record.ts`).
 *
 *     HOME/audit/         0700
 *       audit.jsonl       0600, only appended to
 *       audit-SEQ.jsonl   full files; SEQ: their first record
 *       head.json         the last record, to detect a truncated end
 *       removed.json      the last record of the removed files, to detect a truncated beginning
 *       models/           the same for model requests, so that sandboxes do not evict records of calls
 *       content/          the same for requests' contents, so that long texts do not evict those records
 *
 * Calls do not wait for the disk: lines are written in batches, at least every `flushMs`. While the disk is full, calls
 * continue and lines wait in memory; beyond `waitingMax` and `waitingCharactersMax` they are dropped, and the next
 * record has their number.
 */
import { createReadStream } from 'node:fs';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { isDeepStrictEqual } from 'node:util';
import type { Clock } from '../../base/clock.ts';
import { describeError, errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { Counter } from '../../base/metrics.ts';
import { TokenBucket } from '../../base/token-bucket.ts';
import { MIB } from '../../base/units.ts';
import type { Content } from '../../inference/bridge/bridge.ts';
import {
  type AuditFile,
  type AuditKind,
  auditDir,
  CURRENT,
  FULL,
  type LogFiles,
  listFiles,
  noLog,
  type Opened,
  openCurrent,
  openFiles,
  readFailure,
  readHead,
  readRemoved,
  removeOldest,
  writeHead,
} from './audit-files.ts';
import {
  type AuditRecord,
  CHAIN_START,
  type ChainBegin,
  ChainCheck,
  type ChainEnd,
  type ChainReport,
  lineHash,
  type ModelUse,
  parseRecord,
} from './audit-record.ts';
import type { Caller } from './callers.ts';
import { TenantError } from './errors.ts';

export type { AuditFile, AuditKind } from './audit-files.ts';

export const AUDIT_LIMITS = {
  flushMs: 200,
  waitingMax: 10_000,
  /** Characters of these lines, whose bytes may be three times as many. */
  waitingCharactersMax: 16 * MIB,
  batchCharactersMax: MIB,
  fileBytesMax: 64 * 1024 * 1024,
  /** Full files; the oldest is removed. */
  filesMax: 16,
  /** Rates of records that must not evict the others: of callers without a valid key, and of a tenant's refused calls. */
  strangers: { size: 50, refillPerSecond: 5 },
  refused: { size: 100, refillPerSecond: 1 },
  callCharactersMax: 200,
} as const;

type Limits = Omit<typeof AUDIT_LIMITS, keyof NonNullable<AuditParts['limits']>> &
  Required<NonNullable<AuditParts['limits']>>;

export interface AuditedCall {
  /** `null` without a valid key. */
  readonly caller: Caller | null;
  readonly call: string;
  readonly target: string | null;
  readonly status: number;
  readonly ms: number;
  readonly model?: ModelUse;
  readonly content?: Content;
}

/** Takes records; never throws. */
export interface AuditSink {
  /** @returns the record's place in the chain; `null` if it was dropped */
  note(call: AuditedCall): ChainEnd | null;
}

/** Failed writes of the audit logs of one home. */
export type AuditFailures = Counter<'log'>;

export const auditFailuresMetric = (): AuditFailures =>
  new Counter('neurovisor_audit_failures_total', 'Failed writes of audit logs, each tried again.', ['log']);

export interface AuditParts {
  readonly homeDir: string;
  /** Default `calls`. */
  readonly kind?: AuditKind;
  readonly clock: Clock;
  readonly log: Log;
  /** Counts failed writes. */
  readonly failures?: AuditFailures;
  /** For tests. */
  readonly limits?: {
    readonly [K in 'waitingMax' | 'waitingCharactersMax' | 'fileBytesMax' | 'filesMax']?: number;
  };
  /** For tests: opens the current file for appending. */
  readonly open?: (path: string) => Promise<AuditFile>;
}

interface Line {
  readonly line: string;
  readonly end: ChainEnd;
}

/** The call of a last record that only says what was lost before the daemon ended. */
const END = '(end)';
/** The first status of refused and failed calls. */
const REFUSED = 400;

export class AuditLog implements AuditSink, AsyncDisposable {
  readonly #parts: AuditParts;
  readonly #limits: Limits;
  readonly #dir: string;
  readonly #strangers: TokenBucket;
  /** By tenant. */
  readonly #refused = new Map<string | null, TokenBucket>();
  #file: AuditFile;
  #bytes: number;
  #firstSeq: number;
  #end: ChainEnd;
  #waiting: Line[] = [];
  #waitingCharacters = 0;
  #lost = 0;
  #cancelFlush: (() => void) | undefined;
  #flushing: Promise<void> = Promise.resolve();
  #isFailing = false;
  /** True if the current file may end with a partial line, which must be cut off before anything follows. */
  #isTorn = false;
  /** True if the current file has its final name, and there is no new one yet. */
  #isRenamed = false;
  #isClosed = false;

  private constructor(parts: AuditParts, opened: Opened) {
    this.#parts = parts;
    // Creates the series at 0: Prometheus misses the first increase of a series that begins with it.
    this.#countFailures(0);
    this.#limits = { ...AUDIT_LIMITS, ...parts.limits };
    this.#dir = auditDir(parts.homeDir, parts.kind);
    this.#strangers = new TokenBucket(this.#limits.strangers, parts.clock.now());
    this.#file = opened.file;
    this.#bytes = opened.bytes;
    this.#firstSeq = opened.firstSeq;
    this.#end = opened.end;
  }

  /** Continues the chain; cuts off a last line that a killed daemon wrote partly. @throws TenantError `file_failed` */
  static async open(parts: AuditParts): Promise<AuditLog> {
    try {
      return new AuditLog(parts, await openFiles(auditDir(parts.homeDir, parts.kind), parts.open ?? openCurrent));
    } catch (error) {
      throw new TenantError('file_failed', 'could not open the audit log', { cause: error });
    }
  }

  note(audited: AuditedCall): ChainEnd | null {
    if (this.#isClosed) return null;
    const { waitingMax, waitingCharactersMax } = this.#limits;
    const isFull = this.#waiting.length >= waitingMax || this.#waitingCharacters >= waitingCharactersMax;
    if (isFull || this.#isOverRate(audited)) {
      this.#lost += 1;
      return null;
    }
    this.#add(audited);
    this.#cancelFlush ??= this.#parts.clock.after(this.#limits.flushMs, () => void this.flush());
    return this.#end;
  }

  #isOverRate(audited: AuditedCall): boolean {
    const bucket = this.#bucketOf(audited);
    if (bucket === undefined) return false;
    if (bucket.waitForMs(1, this.#parts.clock.now()) > 0) return true;
    bucket.spend(1);
    return false;
  }

  #bucketOf({ caller, status }: AuditedCall): TokenBucket | undefined {
    if (caller === null) return this.#strangers;
    const { kind = 'calls', clock } = this.#parts;
    // The bridge has a rate of its own.
    if (kind !== 'calls' || status < REFUSED) return undefined;
    const known = this.#refused.get(caller.tenant);
    if (known !== undefined) return known;
    const made = new TokenBucket(this.#limits.refused, clock.now());
    this.#refused.set(caller.tenant, made);
    return made;
  }

  #add({ caller, call, target, status, ms, model, content }: AuditedCall): void {
    const record: AuditRecord = {
      seq: this.#end.seq + 1,
      at: new Date(this.#parts.clock.wall()).toISOString(),
      tenant: caller?.tenant ?? null,
      key: caller?.key ?? null,
      call: call.slice(0, this.#limits.callCharactersMax),
      target,
      status,
      ms: Math.round(ms),
      ...(model && { model }),
      ...(content && { content: { ...content } }),
      ...(this.#lost === 0 ? {} : { lost: this.#lost }),
      prev: this.#end.hash,
    };
    this.#lost = 0;
    const line = JSON.stringify(record);
    this.#end = { seq: record.seq, hash: lineHash(line) };
    this.#waiting.push({ line, end: this.#end });
    this.#waitingCharacters += line.length;
  }

  /** Resolves when all lines so far are written, or could not be; never rejects. */
  flush(): Promise<void> {
    this.#cancelFlush?.();
    this.#cancelFlush = undefined;
    this.#flushing = this.#flushing.then(() => this.#write());
    return this.#flushing;
  }

  #countFailures(by: number): void {
    const { failures, kind = 'calls' } = this.#parts;
    failures?.add({ log: kind }, by);
  }

  async #write(): Promise<void> {
    // More lines may arrive meanwhile.
    let left = this.#waiting.length;
    if (left === 0) return;
    try {
      while (left > 0) left -= await this.#writeBatch();
      if (this.#isFailing) this.#parts.log.info('the audit log is written again');
      this.#isFailing = false;
    } catch (error) {
      if (!this.#isFailing) {
        const reason = describeError(error);
        this.#parts.log.error('the audit log can’t be written; calls go on', { reason });
      }
      this.#isFailing = true;
      this.#countFailures(1);
    }
    if (this.#waiting.length > 0 && !this.#isClosed) {
      this.#cancelFlush ??= this.#parts.clock.after(this.#limits.flushMs, () => void this.flush());
    }
  }

  /** @returns the number of lines */
  async #writeBatch(): Promise<number> {
    const { batchCharactersMax, fileBytesMax } = this.#limits;
    let characters = 0;
    const beyond = this.#waiting.findIndex(({ line }) => {
      characters += line.length;
      return characters > batchCharactersMax;
    });
    const batch = this.#waiting.slice(0, beyond < 0 ? undefined : Math.max(1, beyond));
    const [first, last] = [batch[0], batch.at(-1)];
    if (first === undefined || last === undefined) return 0;
    if (this.#isTorn) await this.#cut();
    if (this.#bytes >= fileBytesMax) await this.#rotate(first.end.seq);
    const bytes = Buffer.from(batch.map(({ line }) => `${line}\n`).join(''));
    await this.#append(bytes);
    this.#waiting = this.#waiting.slice(batch.length);
    for (const { line } of batch) this.#waitingCharacters -= line.length;
    this.#bytes += bytes.length;
    await writeHead(this.#dir, last.end);
    return batch.length;
  }

  /** Cuts off what a full disk wrote partly: the lines stay in memory. */
  async #append(bytes: Buffer): Promise<void> {
    try {
      await this.#file.appendFile(bytes);
    } catch (error) {
      this.#isTorn = true;
      await this.#cut().catch((reason: unknown) => ignore(reason, 'tried again before the next line'));
      throw error;
    }
  }

  async #cut(): Promise<void> {
    await this.#file.truncate(this.#bytes);
    this.#isTorn = false;
  }

  async #rotate(nextSeq: number): Promise<void> {
    const current = join(this.#dir, CURRENT);
    // After a failure below, the next attempt finds the file already renamed.
    if (!this.#isRenamed) {
      const full = join(this.#dir, `audit-${String(this.#firstSeq).padStart(12, '0')}.jsonl`);
      await rename(current, full);
      this.#isRenamed = true;
    }
    const { open: openFile = openCurrent } = this.#parts;
    const file = await openFile(current);
    const before = this.#file;
    this.#file = file;
    this.#bytes = 0;
    this.#firstSeq = nextSeq;
    this.#isRenamed = false;
    await before.close();
    await removeOldest(this.#dir, this.#limits.filesMax);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#lost > 0) {
      // No later record would report it.
      this.#add({ caller: null, call: END, target: null, status: 0, ms: 0 });
    }
    await this.flush();
    const waiting = this.#waiting.map(({ line }) => parseRecord(line));
    const lost = waiting.reduce((sum, one) => sum + (one?.lost ?? 0), 0);
    const count = waiting.filter((one) => one?.call !== END).length + lost;
    if (count > 0) this.#parts.log.error('records of the audit log are lost', { count });
    await this.#file.close();
  }
}

/**
 * Checks the files of a home, oldest first. A daemon may write meanwhile, so problems count only if no file was rotated
 * or removed since they were listed.
 * @param filesMax number of full files beyond which the daemon removes the oldest
 * @throws TenantError `not_found` without a log; `file_failed`
 */
export async function verifyAudit(
  homeDir: string,
  filesMax: number = AUDIT_LIMITS.filesMax,
  kind: AuditKind = 'calls',
): Promise<ChainReport> {
  const dir = auditDir(homeDir, kind);
  for (;;) {
    const files = await listFiles(dir);
    const found = await verifyFiles(dir, files, filesMax).catch((error: unknown) => readFailure(dir, error));
    const isSound = !(found instanceof TenantError) && found.problemCount === 0;
    if (!isSound && !isDeepStrictEqual(files, await listFiles(dir))) continue;
    if (found instanceof TenantError) throw found;
    return found;
  }
}

async function verifyFiles(dir: string, { full, current }: LogFiles, filesMax: number): Promise<ChainReport> {
  const known = await readHead(dir);
  if (known === null && full.length + current.length === 0) throw noLog(dir);
  const [, oldest = '1'] = FULL.exec(full[0] ?? '') ?? [];
  const paths = [...full, ...current].map((name) => join(dir, name));
  // Version 0.2 removed files without a note.
  const unnoted = full.length < filesMax ? CHAIN_START : { seq: Number(oldest) - 1, hash: null };
  return await verify(paths, known, (await readRemoved(dir)) ?? unnoted);
}

/** The file that is written to. Missing while a full one is being renamed. */
export function auditPath(homeDir: string, kind: AuditKind): string {
  return join(auditDir(homeDir, kind), CURRENT);
}

/** The full files of a log, oldest first. @throws TenantError `not_found`, `file_failed` */
export async function fullAuditFiles(
  homeDir: string,
  kind: AuditKind,
): Promise<readonly { readonly path: string; readonly firstSeq: number }[]> {
  const dir = auditDir(homeDir, kind);
  const { full } = await listFiles(dir);
  return full.map((name) => ({ path: join(dir, name), firstSeq: Number(FULL.exec(name)?.[1]) }));
}

/** Checks files as one chain, which may begin anywhere. @throws TenantError `not_found`, `file_failed` */
export async function verifyAuditFiles(paths: readonly string[]): Promise<ChainReport> {
  return await verify(paths, null, null);
}

async function verify(
  paths: readonly string[],
  known: ChainEnd | null,
  removed: ChainBegin | null,
): Promise<ChainReport> {
  const check = new ChainCheck(known, removed);
  for (const path of paths) {
    let line = 0;
    const input = createReadStream(path);
    try {
      for await (const text of createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })) {
        line += 1;
        check.add(text, `${path} line ${line}`);
      }
    } catch (error) {
      const code = errorCode(error) === 'ENOENT' ? 'not_found' : 'file_failed';
      throw new TenantError(code, `could not read ${path}`, { cause: error });
    }
  }
  return check.end();
}
