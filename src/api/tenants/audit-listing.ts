/** What the operator asks of the audit logs: a list with filters, one request with its content, a check of all logs. */
import { errorCode } from '../../base/errors.ts';
import { type AuditKind, verifyAudit } from './audit.ts';
import { type AuditLine, changedContents, findAudit, readAudit } from './audit-read.ts';
import type { AuditRecord, ChainReport } from './audit-record.ts';
import { TenantError } from './errors.ts';

export interface AuditFilter {
  /** Id of a sandbox or snapshot, or its beginning. */
  readonly target?: string | undefined;
  readonly tenant?: string | undefined;
  /** Name of a model, as the sandbox or the model server knows it. */
  readonly model?: string | undefined;
  /** An outcome, or the code of a refusal. */
  readonly outcome?: string | undefined;
  /** Milliseconds since 1970. */
  readonly sinceMs?: number | undefined;
}

export interface AuditListing extends AuditFilter {
  /** Requests to models, which is the default, or control calls. */
  readonly log?: 'models' | 'calls' | undefined;
  /** Number of a record: only later ones. */
  readonly after?: number | undefined;
  /** If true, records have their content where it is kept. */
  readonly content?: boolean | undefined;
  /** If true, also yields what is written from now on, until the signal aborts. */
  readonly follow?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface AuditedRequest {
  readonly record: AuditRecord;
  /** `null` if it is not kept. */
  readonly content: Readonly<Record<string, unknown>> | null;
  /** The content is not the one that the record names. */
  readonly isChanged: boolean;
}

/** The result of a check of all logs of a home: the log of control calls, and the others. */
export interface AuditVerification extends ChainReport {
  /** Nothing was changed. */
  readonly ok: boolean;
  /** `null`: the home has no such log. */
  readonly models: ChainReport | null;
  readonly contents: ChainReport | null;
  /** Numbers of requests to models whose content is not the one that their record names. */
  readonly changedContents: readonly number[];
}

/** Oldest first. @throws TenantError `not_found`, `file_failed` */
export async function* listAudit(
  homeDir: string,
  { log = 'models', after = 0, content = false, follow = false, signal, ...filter }: AuditListing,
): AsyncGenerator<AuditRecord, void, undefined> {
  const contents = content ? new Contents(homeDir) : null;
  const query = { kind: log, fromSeq: after + 1, follow, ...(signal && { signal }) };
  try {
    for await (const { record } of readAudit(homeDir, query)) {
      if (record.seq <= after || !fits(record, filter)) continue;
      const kept = await contents?.of(record);
      yield kept === undefined ? record : { ...record, content: kept };
    }
  } finally {
    await contents?.close();
  }
}

const fits = ({ target, tenant, model, at }: AuditRecord, filter: AuditFilter): boolean =>
  (filter.target === undefined || target?.startsWith(filter.target) === true) &&
  (filter.tenant === undefined || tenant === filter.tenant) &&
  (filter.model === undefined || [model?.name, model?.upstreamModel].includes(filter.model)) &&
  (filter.outcome === undefined || [model?.outcome, model?.refusal].includes(filter.outcome)) &&
  (filter.sinceMs === undefined || Date.parse(at) >= filter.sinceMs);

/** The contents in the order of the records, which is their own. */
class Contents {
  readonly #lines: AsyncGenerator<AuditLine>;
  #current: AuditLine | undefined;
  #isAtEnd = false;

  constructor(homeDir: string) {
    this.#lines = readAudit(homeDir, { kind: 'content' });
  }

  async of({ model }: AuditRecord): Promise<AuditRecord['content']> {
    const seq = model?.content?.seq;
    if (seq === undefined) return undefined;
    while (!this.#isAtEnd && (this.#current?.record.seq ?? 0) < seq) {
      const next = await this.#lines.next();
      if (next.done === true) this.#isAtEnd = true;
      else this.#current = next.value;
    }
    return this.#current?.record.seq === seq ? this.#current.record.content : undefined;
  }

  async close(): Promise<void> {
    await this.#lines.return(undefined);
  }
}

/** All that the logs have of one request to a model. @throws TenantError `not_found`, `file_failed` */
export async function findRequest(homeDir: string, seq: number): Promise<AuditedRequest> {
  const found = await findAudit(homeDir, 'models', seq);
  if (found === null) {
    const remedy = '`neurovisor audit ls` shows their numbers';
    throw new TenantError('not_found', `there is no record ${seq}`, { remedy });
  }
  const { record } = found;
  const named = record.model?.content;
  const kept = named === undefined ? null : await ifThere(findAudit(homeDir, 'content', named.seq));
  // Another content than the record names was put there.
  const isChanged = kept !== null && kept.hash !== named?.sha256;
  return { record, content: kept?.record.content ?? null, isChanged };
}

/** Checks all logs of a home. @throws TenantError `not_found` without a log of control calls, `file_failed` */
export async function checkAudit(homeDir: string): Promise<AuditVerification> {
  const report = (kind: AuditKind): Promise<ChainReport> => verifyAudit(homeDir, undefined, kind);
  const calls = await report('calls');
  const models = await ifThere(report('models'));
  const contents = await ifThere(report('content'));
  const changed = contents === null || models === null ? [] : await changedContents(homeDir);
  const isSound = [calls, models, contents].every((one) => (one?.problemCount ?? 0) === 0);
  return { ok: isSound && changed.length === 0, ...calls, models, contents, changedContents: changed };
}

/** `null` if there is no such log. */
async function ifThere<T>(reading: Promise<T>): Promise<T | null> {
  try {
    return await reading;
  } catch (error) {
    if (errorCode(error) === 'not_found') return null;
    throw error;
  }
}
