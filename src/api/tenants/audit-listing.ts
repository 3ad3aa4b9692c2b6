/** What the operator asks of the audit logs: a list with filters, one request with its content, a check of all logs. */
import { ifThere } from '../../base/errors.ts';
import { AuditCursor } from './audit-cursor.ts';
import { type AuditKind, auditTenants } from './audit-files.ts';
import { changedContents, findAudit, readAudit, skipTo } from './audit-read.ts';
import { type AuditRecord, CHAIN_START, ChainCheck, type ChainReport } from './audit-record.ts';
import { verifyAudit } from './audit-verify.ts';
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
  /** Number of a record: only later ones of the tenant's log, or without a tenant of the operator's. */
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

/** The result of a check of the operator's logs, or of a tenant's: the log of control calls, and the others. */
export interface LogVerification extends ChainReport {
  /** Nothing was changed. */
  readonly ok: boolean;
  /** `null`: the home has no such log. */
  readonly models: ChainReport | null;
  readonly contents: ChainReport | null;
  /** Numbers of requests to models whose content is not the one that their record names. */
  readonly changedContents: readonly number[];
}

export interface TenantVerification extends LogVerification {
  readonly tenant: string;
}

/** The operator's logs, and all tenants'; or those of one tenant. `ok`: nothing was changed in any of them. */
export interface AuditVerification extends LogVerification {
  readonly tenants: readonly TenantVerification[];
}

/** Oldest first. @throws TenantError `not_found`, `file_failed` */
export async function* listAudit(
  homeDir: string,
  { log: kind = 'models', after, content = false, follow = false, signal, ...filter }: AuditListing,
): AsyncGenerator<AuditRecord, void, undefined> {
  const contents = new Map<string | null, AuditCursor>();
  const contentOf = async (log: string | null, seq: number | undefined): Promise<AuditRecord['content']> => {
    if (!content || seq === undefined) return undefined;
    const cursor = contents.get(log) ?? new AuditCursor(homeDir, { kind: 'content', tenant: log });
    contents.set(log, cursor);
    // The contents of a log are in the order of its records.
    const found = await ifThere(skipTo(cursor, seq), 'not_found');
    cursor.release();
    return found?.record.seq === seq ? found.record.content : undefined;
  };
  const logs = logsOf(filter.tenant, after);
  const fromSeq = (after ?? 0) + 1;
  for await (const { record, log } of readAudit(homeDir, { kind, logs, fromSeq, follow, signal })) {
    if (record.seq < fromSeq || !fits(record, log, filter)) continue;
    const kept = await contentOf(log, record.model?.content?.seq);
    yield { ...record, ...(kept && { content: kept }), log: log ?? undefined };
  }
}

/** Version 0.2 wrote the records of tenants to the operator's log. */
function logsOf(tenant: string | undefined, after: number | undefined): 'all' | readonly (string | null)[] {
  // Numbers are those of one log.
  if (after !== undefined) return [tenant ?? null];
  return tenant === undefined ? 'all' : [null, tenant];
}

const fits = ({ target, tenant, model, at }: AuditRecord, log: string | null, filter: AuditFilter): boolean =>
  (filter.target === undefined || target?.startsWith(filter.target) === true) &&
  (filter.tenant === undefined || (log ?? tenant) === filter.tenant) &&
  (filter.model === undefined || [model?.name, model?.upstreamModel].includes(filter.model)) &&
  (filter.outcome === undefined || [model?.outcome, model?.refusal].includes(filter.outcome)) &&
  (filter.sinceMs === undefined || Date.parse(at) >= filter.sinceMs);

/**
 * All that the logs have of one request to a model.
 * @param tenant whose log it is; `null` for the operator's
 * @throws TenantError `not_found`, `file_failed`
 */
export async function findRequest(homeDir: string, seq: number, tenant: string | null): Promise<AuditedRequest> {
  const find = (kind: AuditKind, at: number) => ifThere(findAudit(homeDir, { kind, tenant }, at), 'not_found');
  const found = tenant === null ? await findAudit(homeDir, { kind: 'models', tenant }, seq) : await find('models', seq);
  if (found == null) {
    const remedy = '`neurovisor audit ls` shows their numbers, and --tenant whose log has them';
    throw new TenantError('not_found', `there is no record ${seq} in the log of ${tenant ?? 'the operator'}`, {
      remedy,
    });
  }
  const { record } = found;
  const named = record.model?.content;
  const kept = named === undefined ? null : await find('content', named.seq);
  // Another content than the record names was put there.
  const isChanged = kept != null && kept.hash !== named?.sha256;
  return { record, content: kept?.record.content ?? null, isChanged };
}

/**
 * Checks all logs of a home, or those of a tenant.
 * @throws TenantError `not_found` without a log of control calls, or without one of the tenant; `file_failed`
 */
export async function checkAudit(homeDir: string, tenant?: string): Promise<AuditVerification> {
  const own = await checkLogs(homeDir, tenant ?? null);
  const tenants: TenantVerification[] = [];
  for (const name of tenant === undefined ? await auditTenants(homeDir) : []) {
    tenants.push({ tenant: name, ...(await checkLogs(homeDir, name)) });
  }
  return { ...own, ok: own.ok && tenants.every(({ ok }) => ok), tenants };
}

async function checkLogs(homeDir: string, tenant: string | null): Promise<LogVerification> {
  const report = (kind: AuditKind): Promise<ChainReport> => verifyAudit(homeDir, { kind, tenant });
  const orNull = async (kind: AuditKind): Promise<ChainReport | null> =>
    (await ifThere(report(kind), 'not_found')) ?? null;
  const models = await orNull('models');
  // A tenant may have sandboxes that ask models, and no call.
  const calls = models !== null && tenant !== null ? ((await orNull('calls')) ?? NO_RECORDS) : await report('calls');
  const contents = await orNull('content');
  const changed = contents === null || models === null ? [] : await changedContents(homeDir, tenant);
  const isSound = [calls, models, contents].every((one) => (one?.problemCount ?? 0) === 0);
  return { ok: isSound && changed.length === 0, ...calls, models, contents, changedContents: changed };
}

const NO_RECORDS: ChainReport = new ChainCheck(null, CHAIN_START).end();
