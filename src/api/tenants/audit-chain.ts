/** Writes one audit log: the operator's, or a tenant's. */
import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import { TokenBucket } from '../../base/token-bucket.ts';
import { KIB, MIB } from '../../base/units.ts';
import type { Content } from '../../inference/bridge/bridge.ts';
import {
  type AuditFile,
  type AuditKind,
  auditDir,
  CURRENT,
  type LogState,
  openCurrent,
  readState,
  removeOldest,
  writeHead,
} from './audit-files.ts';
import { type AuditRecord, type ChainEnd, lineHash, type ModelUse, parseRecord } from './audit-record.ts';
import type { Caller } from './callers.ts';

export const AUDIT_LIMITS = {
  flushMs: 200,
  waitingMax: 10_000,
  /** Characters of these lines, whose bytes may be three times as many. */
  waitingCharactersMax: 16 * MIB,
  batchCharactersMax: MIB,
  fileBytesMax: 64 * MIB,
  /** Full files; the oldest is removed. */
  filesMax: 16,
  /** Of each tenant's log. */
  tenant: { waitingMax: 2000, waitingCharactersMax: 2 * MIB, fileBytesMax: 16 * MIB },
  /** Characters that wait of all tenants of a log, and below which a single one may always add a line. */
  tenants: { waitingCharactersMax: 16 * MIB, reservedCharacters: 64 * KIB },
  /** Rates of records that must not evict the others: of callers without a valid key, and of refused calls. */
  strangers: { size: 50, refillPerSecond: 5 },
  refused: { size: 100, refillPerSecond: 1 },
  callCharactersMax: 200,
} as const;

export type FileLimits = {
  readonly [K in 'waitingMax' | 'waitingCharactersMax' | 'fileBytesMax' | 'filesMax']: number;
};

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

export interface ChainParts {
  readonly homeDir: string;
  readonly kind: AuditKind;
  /** `null` for the operator's. */
  readonly tenant: string | null;
  readonly clock: Clock;
  readonly limits: FileLimits;
  /** Characters that wait of all tenants. */
  readonly waiting: { characters: number };
  readonly open: ((path: string) => Promise<AuditFile>) | undefined;
}

interface Line {
  readonly line: string;
  readonly end: ChainEnd;
}

/** The call of a last record that only says what was lost before the daemon ended. */
const END = '(end)';
/** The first status of refused and failed calls. */
const REFUSED = 400;

export class AuditChain {
  readonly #parts: ChainParts;
  readonly #dir: string;
  readonly #strangers: TokenBucket;
  readonly #refused: TokenBucket;
  /** Of a tenant's log, open only while lines are written. */
  #file: AuditFile | null = null;
  #bytes: number;
  #firstSeq: number;
  #end: ChainEnd;
  #waiting: Line[] = [];
  #waitingCharacters = 0;
  #lost = 0;
  /** True if the current file may end with a partial line, which must be cut off before anything follows. */
  #isTorn = false;
  /** True if the current file has its final name, and there is no new one yet. */
  #isRenamed = false;

  constructor(parts: ChainParts, { bytes, firstSeq, end }: LogState) {
    const { homeDir, kind, tenant, clock } = parts;
    this.#parts = parts;
    this.#dir = auditDir(homeDir, kind, tenant);
    this.#strangers = new TokenBucket(AUDIT_LIMITS.strangers, clock.now());
    this.#refused = new TokenBucket(AUDIT_LIMITS.refused, clock.now());
    this.#bytes = bytes;
    this.#firstSeq = firstSeq;
    this.#end = end;
  }

  /** Continues the chain that is there. Cuts off a last line that a killed daemon wrote partly. */
  static async open(parts: ChainParts): Promise<AuditChain> {
    const { homeDir, kind, tenant } = parts;
    const chain = new AuditChain(parts, await readState(auditDir(homeDir, kind, tenant)));
    if (tenant === null) chain.#file = await chain.#open();
    return chain;
  }

  get hasWaiting(): boolean {
    return this.#waiting.length > 0;
  }

  /** @returns null if it was dropped */
  note(audited: AuditedCall): ChainEnd | null {
    if (this.#isFull() || this.#isOverRate(audited)) {
      this.#lost += 1;
      return null;
    }
    this.#add(audited);
    return this.#end;
  }

  #isFull(): boolean {
    const { limits, tenant, waiting } = this.#parts;
    const { waitingCharactersMax, reservedCharacters } = AUDIT_LIMITS.tenants;
    const areTenantsFull = tenant !== null && waiting.characters >= waitingCharactersMax;
    return (
      this.#waiting.length >= limits.waitingMax ||
      this.#waitingCharacters >= limits.waitingCharactersMax ||
      (areTenantsFull && this.#waitingCharacters >= reservedCharacters)
    );
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
    // The bridge has a rate of its own.
    return this.#parts.kind !== 'calls' || status < REFUSED ? undefined : this.#refused;
  }

  #add({ caller, call, target, status, ms, model, content }: AuditedCall): void {
    const { clock, tenant } = this.#parts;
    const record: AuditRecord = {
      seq: this.#end.seq + 1,
      at: new Date(clock.wall()).toISOString(),
      tenant: caller === null ? tenant : caller.tenant,
      key: caller?.key ?? null,
      call: call.slice(0, AUDIT_LIMITS.callCharactersMax),
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
    this.#countWaiting(line.length);
  }

  #countWaiting(characters: number): void {
    this.#waitingCharacters += characters;
    if (this.#parts.tenant !== null) this.#parts.waiting.characters += characters;
  }

  /** Writes the lines so far. */
  async write(): Promise<void> {
    // More lines may arrive meanwhile.
    let left = this.#waiting.length;
    if (left === 0) return;
    this.#file ??= await this.#open();
    try {
      while (left > 0) left -= await this.#writeBatch(this.#file);
    } finally {
      if (this.#parts.tenant !== null) await this.#close();
    }
  }

  async #open(): Promise<AuditFile> {
    const { open: openFile = openCurrent } = this.#parts;
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    return await openFile(join(this.#dir, CURRENT));
  }

  async #close(): Promise<void> {
    const file = this.#file;
    this.#file = null;
    await file?.close();
  }

  /** @returns the number of lines */
  async #writeBatch(file: AuditFile): Promise<number> {
    let characters = 0;
    const beyond = this.#waiting.findIndex(({ line }) => {
      characters += line.length;
      return characters > AUDIT_LIMITS.batchCharactersMax;
    });
    const batch = this.#waiting.slice(0, beyond < 0 ? undefined : Math.max(1, beyond));
    const [first, last] = [batch[0], batch.at(-1)];
    if (first === undefined || last === undefined) return 0;
    if (this.#isTorn) await this.#cut(file);
    const current = this.#bytes < this.#parts.limits.fileBytesMax ? file : await this.#rotate(file, first.end.seq);
    const bytes = Buffer.from(batch.map(({ line }) => `${line}\n`).join(''));
    await this.#append(current, bytes);
    this.#waiting = this.#waiting.slice(batch.length);
    for (const { line } of batch) this.#countWaiting(-line.length);
    this.#bytes += bytes.length;
    await writeHead(this.#dir, last.end);
    return batch.length;
  }

  /** Cuts off what a full disk wrote partly: the lines stay in memory. */
  async #append(file: AuditFile, bytes: Buffer): Promise<void> {
    try {
      await file.appendFile(bytes);
    } catch (error) {
      this.#isTorn = true;
      await this.#cut(file).catch((reason: unknown) => ignore(reason, 'tried again before the next line'));
      throw error;
    }
  }

  async #cut(file: AuditFile): Promise<void> {
    await file.truncate(this.#bytes);
    this.#isTorn = false;
  }

  /** @returns the new file */
  async #rotate(before: AuditFile, nextSeq: number): Promise<AuditFile> {
    // After a failure below, the next attempt finds the file already renamed.
    if (!this.#isRenamed) {
      const full = join(this.#dir, `audit-${String(this.#firstSeq).padStart(12, '0')}.jsonl`);
      await rename(join(this.#dir, CURRENT), full);
      this.#isRenamed = true;
    }
    const file = await this.#open();
    this.#file = file;
    this.#bytes = 0;
    this.#firstSeq = nextSeq;
    this.#isRenamed = false;
    await before.close();
    await removeOldest(this.#dir, this.#parts.limits.filesMax);
    return file;
  }

  /** Adds a last record if no later one would report what was lost. */
  noteEnd(): void {
    if (this.#lost > 0) this.#add({ caller: null, call: END, target: null, status: 0, ms: 0 });
  }

  /** @returns the number of records that were not written */
  async close(): Promise<number> {
    const waiting = this.#waiting.map(({ line }) => parseRecord(line));
    const lost = waiting.reduce((sum, one) => sum + (one?.lost ?? 0), 0);
    await this.#close();
    return waiting.filter((one) => one?.call !== END).length + lost;
  }
}
