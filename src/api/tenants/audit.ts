/**
 * The audit logs: one line per control call, chained (`audit-record.ts`). The operator and each tenant have their own,
 * so that no tenant evicts the records of others.
 *
 *     HOME/audit/         0700
 *       audit.jsonl       0600, only appended to: the operator, and callers without a valid key
 *       audit-SEQ.jsonl   full files; SEQ: their first record
 *       head.json         the last record, to detect a truncated end
 *       removed.json      the last record of the removed files, to detect a truncated beginning
 *       models/           the same for model requests, so that sandboxes do not evict records of calls
 *       content/          the same for requests' contents, so that long texts do not evict those records
 *       tenants/NAME/     the same three for each tenant
 *
 * Calls do not wait for the disk: lines are written in batches, at least every `flushMs`, one log after another, so
 * that few files are open. While the disk is full, calls continue and lines wait in memory; beyond the limits they are
 * dropped, and the next record has their number.
 */
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { Counter } from '../../base/metrics.ts';
import { AUDIT_LIMITS, AuditChain, type AuditedCall, type ChainParts, type FileLimits } from './audit-chain.ts';
import { type AuditFile, type AuditKind, auditTenants, NO_FILES } from './audit-files.ts';
import type { ChainEnd } from './audit-record.ts';
import { TenantError } from './errors.ts';
import { TENANT_NAME } from './limits.ts';

/** Takes records; never throws. */
export interface AuditSink {
  /** @returns the record's place in the log of its tenant; `null` if it was dropped */
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
  /** For tests: of each log. */
  readonly limits?: Partial<FileLimits>;
  /** For tests: opens the current file for appending. */
  readonly open?: (path: string) => Promise<AuditFile>;
}

/** The logs of one kind. */
export class AuditLog implements AuditSink, AsyncDisposable {
  readonly #parts: AuditParts;
  readonly #kind: AuditKind;
  readonly #waiting = { characters: 0 };
  readonly #chains = new Map<string | null, AuditChain>();
  /** Those with lines to write. */
  readonly #unwritten = new Set<AuditChain>();
  #cancelFlush: (() => void) | undefined;
  #flushing: Promise<void> = Promise.resolve();
  #isFailing = false;
  #isClosed = false;

  private constructor(parts: AuditParts) {
    this.#parts = parts;
    this.#kind = parts.kind ?? 'calls';
    // Creates the series at 0: Prometheus misses the first increase of a series that begins with it.
    this.#countFailures(0);
  }

  /** Continues the chains that are there. @throws TenantError `file_failed` */
  static async open(parts: AuditParts): Promise<AuditLog> {
    const log = new AuditLog(parts);
    try {
      for (const tenant of [null, ...(await auditTenants(parts.homeDir))]) {
        log.#chains.set(tenant, await AuditChain.open(log.#partsOf(tenant)));
      }
      return log;
    } catch (error) {
      await log.#chains.get(null)?.close();
      throw new TenantError('file_failed', 'could not open the audit log', { cause: error });
    }
  }

  note(audited: AuditedCall): ChainEnd | null {
    if (this.#isClosed) return null;
    const chain = this.#chainOf(audited.caller?.tenant ?? null);
    const end = chain.note(audited);
    if (end !== null) this.#unwritten.add(chain);
    if (this.#unwritten.size > 0) this.#flushSoon();
    return end;
  }

  #chainOf(owner: string | null): AuditChain {
    // What is not a tenant's name must not become a path.
    const tenant = owner !== null && TENANT_NAME.test(owner) ? owner : null;
    const known = this.#chains.get(tenant);
    if (known !== undefined) return known;
    const made = new AuditChain(this.#partsOf(tenant), NO_FILES);
    this.#chains.set(tenant, made);
    return made;
  }

  #partsOf(tenant: string | null): ChainParts {
    const { homeDir, clock, open, limits } = this.#parts;
    const own = tenant === null ? {} : AUDIT_LIMITS.tenant;
    return {
      homeDir,
      kind: this.#kind,
      tenant,
      clock,
      limits: { ...AUDIT_LIMITS, ...own, ...limits },
      waiting: this.#waiting,
      open,
    };
  }

  #flushSoon(): void {
    this.#cancelFlush ??= this.#parts.clock.after(AUDIT_LIMITS.flushMs, () => void this.flush());
  }

  /** Resolves when all lines so far are written, or could not be; never rejects. */
  flush(): Promise<void> {
    this.#cancelFlush?.();
    this.#cancelFlush = undefined;
    this.#flushing = this.#flushing.then(() => this.#write());
    return this.#flushing;
  }

  #countFailures(by: number): void {
    this.#parts.failures?.add({ log: this.#kind }, by);
  }

  async #write(): Promise<void> {
    if (this.#unwritten.size === 0) return;
    const { log } = this.#parts;
    const failures: unknown[] = [];
    for (const chain of [...this.#unwritten]) {
      await chain.write().catch((error: unknown) => failures.push(error));
      if (!chain.hasWaiting) this.#unwritten.delete(chain);
    }
    const [first] = failures;
    if (first !== undefined && !this.#isFailing) {
      log.error('the audit log can’t be written; calls go on', { reason: describeError(first) });
    }
    if (first === undefined && this.#isFailing) log.info('the audit log is written again');
    this.#isFailing = first !== undefined;
    this.#countFailures(failures.length);
    if (this.#unwritten.size > 0 && !this.#isClosed) this.#flushSoon();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const chain of this.#chains.values()) {
      chain.noteEnd();
      if (chain.hasWaiting) this.#unwritten.add(chain);
    }
    await this.flush();
    let count = 0;
    for (const chain of this.#chains.values()) count += await chain.close();
    if (count > 0) this.#parts.log.error('records of the audit log are lost', { count });
  }
}
