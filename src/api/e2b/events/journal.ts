/**
 * Events and webhooks on disk: SQLite in one file, mode 0600, since webhooks have secrets. Sequence numbers define the
 * order of events, even across restarts (io).
 */
import { randomUUID } from 'node:crypto';
import { closeSync, openSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';
import { z } from 'zod';
import { EVENT_LIMITS } from './limits.ts';

export const EVENT_TYPES = [
  'sandbox.lifecycle.created',
  'sandbox.lifecycle.updated',
  'sandbox.lifecycle.paused',
  'sandbox.lifecycle.resumed',
  'sandbox.lifecycle.checkpointed',
  'sandbox.lifecycle.killed',
] as const;
export type EventType = (typeof EVENT_TYPES)[number];

const newEvent = z.object({
  type: z.enum(EVENT_TYPES),
  /** `null` for the operator. */
  tenant: z.string().nullable(),
  sandboxId: z.string(),
  template: z.string(),
  /** From a start or resume to the next pause or end. */
  execution: z.string(),
  atMs: z.number(),
  data: z.record(z.string(), z.unknown()).nullable(),
});
export type NewEvent = z.infer<typeof newEvent>;
export type StoredEvent = NewEvent & { readonly seq: number; readonly id: string };

const webhookRow = z.object({
  id: z.string(),
  tenant: z.string().nullable(),
  name: z.string(),
  url: z.string(),
  enabled: z.boolean(),
  events: z.array(z.enum(EVENT_TYPES)),
  secret: z.string(),
  createdAtMs: z.number(),
});
export type Webhook = z.infer<typeof webhookRow>;

export interface EventQuery {
  /** `null` for all tenants. */
  readonly tenant: string | null;
  readonly sandboxId?: string | undefined;
  /** Undefined or empty for all. */
  readonly types?: readonly EventType[] | undefined;
}

const countRow = z.object({ tenant: z.string().nullable(), count: z.number(), bytes: z.number() });
const sizeRow = z.object({ seq: z.number(), bytes: z.number() });
const row = z.object({ seq: z.number(), id: z.string(), json: z.string() });

type KeptLimits = Readonly<Record<'keptMax' | 'keptBytesMax' | 'keptSumMax', number>>;

interface Kept {
  readonly count: number;
  readonly bytes: number;
}
const NONE: Kept = { count: 0, bytes: 0 };

export class EventJournal implements Disposable {
  readonly #db: DatabaseSync;
  readonly #limits: KeptLimits;
  /** Kept events by tenant: counting them for each event would read all of them. */
  readonly #kept = new Map<string | null, Kept>();

  constructor(path: string, limits: Partial<KeptLimits> = {}) {
    this.#limits = { ...EVENT_LIMITS, ...limits };
    closeSync(openSync(path, 'a', 0o600));
    this.#db = new DatabaseSync(path);
    this.#db.exec(`
      PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
      CREATE TABLE IF NOT EXISTS events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, tenant TEXT, sandboxId TEXT NOT NULL,
        type TEXT NOT NULL, json TEXT NOT NULL
      ) STRICT;
      CREATE INDEX IF NOT EXISTS eventsBySandbox ON events (sandboxId, seq);
      CREATE INDEX IF NOT EXISTS eventsByTenant ON events (tenant, seq);
      CREATE INDEX IF NOT EXISTS eventsByType ON events (type, seq);
      CREATE INDEX IF NOT EXISTS eventsByTenantAndType ON events (tenant, type, seq);
      CREATE TABLE IF NOT EXISTS webhooks (
        id TEXT PRIMARY KEY NOT NULL, tenant TEXT, json TEXT NOT NULL, deliveredSeq INTEGER NOT NULL
      ) STRICT, WITHOUT ROWID;
    `);
    const counts = this.#db.prepare(
      'SELECT tenant, count(*) AS count, sum(octet_length(json)) AS bytes FROM events GROUP BY tenant',
    );
    for (const one of counts.all()) {
      const { tenant, ...kept } = countRow.parse(one);
      this.#kept.set(tenant, kept);
    }
  }

  /** Bytes of the kept events of a tenant. */
  bytesOf(tenant: string | null): number {
    return this.#keptOf(tenant).bytes;
  }

  #keptOf(tenant: string | null): Kept {
    return this.#kept.get(tenant) ?? NONE;
  }

  append(event: NewEvent): void {
    const { tenant, sandboxId, type } = event;
    const json = JSON.stringify(event);
    this.#db
      .prepare('INSERT INTO events (id, tenant, sandboxId, type, json) VALUES (?, ?, ?, ?, ?)')
      .run(randomUUID(), tenant, sandboxId, type, json);
    const before = this.#keptOf(tenant);
    const now = { count: before.count + 1, bytes: before.bytes + Buffer.byteLength(json) };
    this.#kept.set(tenant, now);
    const { keptMax, keptBytesMax, keptSumMax } = this.#limits;
    this.#dropOldest(tenant, { count: now.count - keptMax, bytes: now.bytes - keptBytesMax });
    const counts = [...this.#kept];
    const sum = counts.reduce((total, [, { count }]) => total + count, 0);
    if (sum <= keptSumMax) return;
    const [largest] = counts.reduce((most, one) => (one[1].count > most[1].count ? one : most));
    this.#dropOldest(largest, { count: sum - keptSumMax, bytes: 0 });
  }

  /** @param least what is dropped at least */
  #dropOldest(tenant: string | null, least: Kept): void {
    if (least.count <= 0 && least.bytes <= 0) return;
    const oldest = this.#db
      .prepare('SELECT seq, octet_length(json) AS bytes FROM events WHERE tenant IS ? ORDER BY seq')
      .iterate(tenant);
    let [last, count, bytes] = [0, 0, 0];
    for (const one of oldest) {
      const { seq, bytes: size } = sizeRow.parse(one);
      [last, count, bytes] = [seq, count + 1, bytes + size];
      if (count >= least.count && bytes >= least.bytes) break;
    }
    this.#db.prepare('DELETE FROM events WHERE tenant IS ? AND seq <= ?').run(tenant, last);
    const kept = this.#keptOf(tenant);
    this.#kept.set(tenant, { count: kept.count - count, bytes: kept.bytes - bytes });
  }

  list(
    query: EventQuery & { readonly offset: number; readonly limit: number; readonly isAscending: boolean },
  ): readonly StoredEvent[] {
    const { text, values } = condition(query);
    const order = query.isAscending ? 'ASC' : 'DESC';
    return this.#events(`SELECT seq, id, json FROM events WHERE ${text} ORDER BY seq ${order} LIMIT ? OFFSET ?`, [
      ...values,
      query.limit,
      query.offset,
    ]);
  }

  /** The last event of each live sandbox. */
  open(): readonly StoredEvent[] {
    return this.#events(
      `SELECT seq, id, json FROM events WHERE seq IN (SELECT max(seq) FROM events GROUP BY sandboxId)
       AND type <> 'sandbox.lifecycle.killed' ORDER BY seq`,
      [],
    );
  }

  /**
   * The next event that has not been delivered to a webhook. Searches an index once per type, so events that do not
   * match cost nothing, however many follow the last delivery.
   */
  nextFor({ id, tenant, events }: Webhook): StoredEvent | undefined {
    const nextOf = (type: EventType): StoredEvent[] => {
      const { text, values } = condition({ tenant, types: [type] });
      return this.#events(
        `SELECT seq, id, json FROM events WHERE ${text}
         AND seq > (SELECT deliveredSeq FROM webhooks WHERE id = ?) ORDER BY seq LIMIT 1`,
        [...values, id],
      );
    };
    return events.flatMap(nextOf).sort((a, b) => a.seq - b.seq)[0];
  }

  noteDelivered(webhook: string, seq: number): void {
    this.#db.prepare('UPDATE webhooks SET deliveredSeq = ? WHERE id = ?').run(seq, webhook);
  }

  /** @param tenant undefined for all */
  webhooks(tenant?: string | null): readonly Webhook[] {
    const rows = this.#db.prepare('SELECT json FROM webhooks ORDER BY id').all();
    return rows
      .map(({ json }) => webhookRow.parse(JSON.parse(String(json))))
      .filter((one) => tenant === undefined || one.tenant === tenant)
      .sort((a, b) => a.createdAtMs - b.createdAtMs);
  }

  /** New and re-enabled webhooks get events from now on. */
  saveWebhook(webhook: Webhook, startsNow: boolean): void {
    const { id, tenant } = webhook;
    const json = JSON.stringify(webhook);
    this.#db
      .prepare(
        `INSERT INTO webhooks (id, tenant, json, deliveredSeq)
         VALUES (?, ?, ?, (SELECT coalesce(max(seq), 0) FROM events))
         ON CONFLICT (id) DO UPDATE SET json = excluded.json,
           deliveredSeq = iif(?, excluded.deliveredSeq, deliveredSeq)`,
      )
      .run(id, tenant, json, Number(startsNow));
  }

  /** Removes the tenant's events and webhooks. */
  forget(tenant: string): void {
    for (const table of ['events', 'webhooks']) this.#db.prepare(`DELETE FROM ${table} WHERE tenant = ?`).run(tenant);
    this.#kept.delete(tenant);
  }

  removeWebhook(id: string): void {
    this.#db.prepare('DELETE FROM webhooks WHERE id = ?').run(id);
  }

  [Symbol.dispose](): void {
    if (this.#db.isOpen) this.#db.close();
  }

  #events(sql: string, values: readonly (string | number)[]): StoredEvent[] {
    const rows = this.#db.prepare(sql).all(...values);
    return rows.map((one) => {
      const { seq, id, json } = row.parse(one);
      return { ...newEvent.parse(JSON.parse(json)), seq, id };
    });
  }
}

/** Whether a webhook gets an event; the operator's get those of all tenants. */
export const matches = (webhook: Webhook, { tenant, type }: NewEvent): boolean =>
  (webhook.tenant === null || webhook.tenant === tenant) && webhook.events.includes(type);

function condition({ tenant, sandboxId, types = [] }: EventQuery) {
  const texts = ['1'];
  const values: (string | number)[] = [];
  const add = (text: string, ...more: readonly string[]): void => {
    texts.push(text);
    values.push(...more);
  };
  if (tenant !== null) add('tenant = ?', tenant);
  if (sandboxId !== undefined) add('sandboxId = ?', sandboxId);
  if (types.length > 0) add(`type IN (${types.map(() => '?').join()})`, ...types);
  return { text: texts.join(' AND '), values };
}
