/** Reads the records of audit logs: of one, or of several in the order of time. */
import { setTimeout as delay } from 'node:timers/promises';
import { ignore } from '../../base/ignore.ts';
import { KIB, MIB } from '../../base/units.ts';
import { AuditCursor, type AuditLine } from './audit-cursor.ts';
import { type AuditKind, type AuditPlace, auditTenants } from './audit-files.ts';
import { lineHash } from './audit-record.ts';

const POLL_MS = 500;
/** Bytes that are read ahead of all logs together, and of one. */
const AHEAD = { all: 4 * MIB, oneMin: 4 * KIB, oneMax: 256 * KIB } as const;

export interface AuditQuery {
  readonly kind?: AuditKind;
  /** Whose logs; null is the operator. Default: the operator's. */
  readonly logs?: 'all' | readonly (string | null)[];
  /** Number of a record; older files are not read. */
  readonly fromSeq?: number;
  /** If true, also yields what is written from now on, until the signal aborts. */
  readonly follow?: boolean;
  readonly signal?: AbortSignal | undefined;
}

export interface OwnedLine extends AuditLine {
  /** Whose log has it; null: the operator's. */
  readonly log: string | null;
}

/**
 * Oldest first; the order in each log stays, even if its clock was set back. What is followed comes as it is written.
 * @throws TenantError `not_found` without a log of the operator; `file_failed`
 */
export async function* readAudit(homeDir: string, query: AuditQuery = {}): AsyncGenerator<OwnedLine, void, undefined> {
  const { kind = 'calls', logs = [null], fromSeq = 0, follow = false, signal } = query;
  const cursors = new Map<string | null, AuditCursor>();
  do {
    const owners = logs === 'all' ? [null, ...(await auditTenants(homeDir))] : logs;
    const chunkBytes = Math.max(AHEAD.oneMin, Math.min(AHEAD.oneMax, Math.floor(AHEAD.all / owners.length)));
    for (const tenant of owners) {
      if (!cursors.has(tenant))
        cursors.set(tenant, new AuditCursor(homeDir, { kind, tenant }, { fromSeq, chunkBytes }));
    }
    yield* merge(cursors, signal);
    if (follow) await delay(POLL_MS, undefined, { signal }).catch(ignoreAbort);
  } while (follow && signal?.aborted !== true);
}

/** What is written by now. */
async function* merge(
  cursors: ReadonlyMap<string | null, AuditCursor>,
  signal: AbortSignal | undefined,
): AsyncGenerator<OwnedLine, void, undefined> {
  // Earliest first.
  const heads: { readonly line: OwnedLine; readonly cursor: AuditCursor }[] = [];
  const add = async (log: string | null, cursor: AuditCursor): Promise<void> => {
    const head = await cursor.peek();
    if (head === null) return;
    const later = heads.findIndex(({ line }) => line.record.at > head.record.at);
    heads.splice(later < 0 ? heads.length : later, 0, { line: { ...head, log }, cursor });
  };
  for (const [log, cursor] of cursors) await add(log, cursor);
  for (let next = heads.shift(); next !== undefined && signal?.aborted !== true; next = heads.shift()) {
    yield next.line;
    next.cursor.skip();
    await add(next.line.log, next.cursor);
  }
}

/** The record with this number; `null` if there is none. @throws as `readAudit` */
export async function findAudit(
  homeDir: string,
  { kind, tenant }: AuditPlace,
  seq: number,
): Promise<(AuditLine & { readonly hash: string }) | null> {
  for await (const line of readAudit(homeDir, { kind, logs: [tenant], fromSeq: seq })) {
    if (line.record.seq === seq) return { ...line, hash: lineHash(line.text) };
    if (line.record.seq > seq) return null;
  }
  return null;
}

/** Numbers of a log's requests whose content differs from what their record names; removed contents do not count. */
export async function changedContents(homeDir: string, tenant: string | null = null): Promise<readonly number[]> {
  const changed: number[] = [];
  const contents = new AuditCursor(homeDir, { kind: 'content', tenant });
  // Both logs have the same order.
  for await (const { record } of readAudit(homeDir, { kind: 'models', logs: [tenant] })) {
    const named = record.model?.content;
    if (named === undefined) continue;
    const content = await skipTo(contents, named.seq);
    if (content === null) break;
    if (content.record.seq === named.seq && lineHash(content.text) !== named.sha256) changed.push(record.seq);
  }
  return changed;
}

/** The first record with at least this number; null: none. */
export async function skipTo(cursor: AuditCursor, seq: number): Promise<AuditLine | null> {
  let next = await cursor.peek();
  while (next !== null && next.record.seq < seq) {
    cursor.skip();
    next = await cursor.peek();
  }
  return next;
}

function ignoreAbort(error: unknown): void {
  ignore(error, 'the reader has ended');
}
