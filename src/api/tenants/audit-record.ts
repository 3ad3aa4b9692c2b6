/**
 * The format of audit log lines, and the check of a chain of lines. Each line has the SHA-256 of the previous one, so a
 * changed, removed or moved line is detected. Pure.
 *
 *     {"seq":1,…,"prev":"000…"}      {"seq":2,…,"prev":sha256(line 1)}      {"seq":3,…,"prev":sha256(line 2)}
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { tryOr } from '../../base/ignore.ts';

/** A sandbox's request to a model: tokens, times and outcome. Never its content. */
const modelUse = z
  .object({
    name: z.string(),
    promptTokens: z.number(),
    completionTokens: z.number(),
    /** True if the bridge has estimated the tokens. */
    estimated: z.boolean(),
    stream: z.boolean(),
    outcome: z.enum(['ok', 'cancelled', 'upstream-error', 'upstream-lost', 'refused']),
    /** Milliseconds until the first byte; `null` if there was none. */
    firstByteMs: z.number().nullable(),
    // Older records lack all of the following.
    /** Milliseconds until its turn at the model server, including the wait for its budget. */
    queueMs: z.number().optional(),
    dialect: z.string().optional(),
    /**
     * Name in `models.toml`; `null` if a cassette answered. Like the next three, only present if the request was
     * answered.
     */
    upstream: z.string().nullable().optional(),
    upstreamModel: z.string().optional(),
    /** Billionths of a dollar; `null` if the route has no price, 0 if no model server was asked. */
    costNanoDollars: z.number().nullable().optional(),
    /** `null` if there is no trace. */
    traceId: z.string().nullable().optional(),
    /** The first 16 different names of tools that the answer called. */
    tools: z.array(z.string()).readonly().optional(),
    toolCalls: z.number().int().min(1).optional(),
    /** The answer came from the cache: no model server had the request, and it used no tokens. */
    cached: z.literal(true).optional(),
    /** The answer came from a cassette: no model server had the request. */
    replayed: z.literal(true).optional(),
    refusal: z.string().optional(),
    /** SHA-256 in hexadecimal of the request and of the answer's text; docs/tenants.md says of what exactly. */
    sha256: z
      .object({ request: z.string().optional(), answer: z.string().optional() })
      .meta({ id: 'AuditHashes' })
      .optional(),
    /** The record in the log of contents: its number and the SHA-256 of its line. */
    content: z
      .object({ seq: z.number().int().min(1), sha256: z.string() })
      .meta({ id: 'AuditContentReference' })
      .optional(),
    /** Number of refused requests of this sandbox since its last record that were not recorded. */
    leftOut: z.number().int().min(1).optional(),
  })
  .meta({ id: 'AuditModelUse', description: 'One request to a model; docs/tenants.md explains the fields.' });
export type ModelUse = z.infer<typeof modelUse>;

export const auditRecord = z
  .object({
    /** From 1, without a gap, continued across files. */
    seq: z.number().int().min(1),
    /** Time of the answer, ISO 8601, UTC. */
    at: z.string(),
    /** `null` for the operator, and for a refused key. */
    tenant: z.string().nullable(),
    /** Id of the key, or `socket`, `daemon`, `sandbox`; `null` without a valid key. */
    key: z.string().nullable(),
    /** The method and the pattern of the path: never ids, queries or bodies. */
    call: z.string(),
    /** Id of the sandbox or snapshot, or names of images, templates or models, if any. */
    target: z.string().nullable(),
    status: z.number().int(),
    /** Time until the answer. */
    ms: z.number(),
    model: modelUse.optional(),
    /** Only in the log of contents: the request and the answer. */
    content: z.record(z.string(), z.unknown()).optional(),
    /** Number of lost records before this one. */
    lost: z.number().int().min(1).optional(),
    /** Only in lists: the tenant whose own log has it; absent: the operator's log. */
    log: z.string().optional(),
    prev: z.string().regex(/^[0-9a-f]{64}$/),
  })
  .meta({ id: 'AuditRecord', description: 'One control call, or one request to a model.' });
export type AuditRecord = z.infer<typeof auditRecord>;

/** `prev` of the first record. */
export const NO_PREVIOUS = '0'.repeat(64);

export interface ChainEnd {
  /** 0 before the first record. */
  readonly seq: number;
  /** SHA-256 of the line, in hexadecimal. */
  readonly hash: string;
}

export const CHAIN_START: ChainEnd = { seq: 0, hash: NO_PREVIOUS };

export function lineHash(line: string): string {
  return createHash('sha256').update(line).digest('hex');
}

/** `null` if it is not a record. */
export function parseRecord(line: string): AuditRecord | null {
  return tryOr(null, 'reported as a line that is no record', () => auditRecord.parse(JSON.parse(line)));
}

/** The record before the first one; `hash` is null if it is unknown. */
export type ChainBegin = Pick<ChainEnd, 'seq'> & { readonly hash: string | null };

export class ChainCheck {
  readonly #problems: string[] = [];
  #problemCount = 0;
  #last: (ChainEnd & { readonly where: string }) | null = null;
  #first: AuditRecord | null = null;
  #lastAt: string | null = null;
  #count = 0;
  /** The end known from elsewhere, and whether it was found. */
  readonly #known: ChainEnd | null;

  readonly #removed: ChainBegin | null;

  /**
   * @param known a record that must exist; `null` if none is known
   * @param removed the last record that may be missing before the first; `null`: the chain may begin anywhere
   */
  constructor(known: ChainEnd | null, removed: ChainBegin | null) {
    this.#known = known;
    this.#removed = removed;
  }

  /** @param where the line's place, for messages */
  add(line: string, where: string): void {
    this.#count += 1;
    const one = parseRecord(line);
    const hash = lineHash(line);
    const last = this.#last;
    this.#lastAt = one?.at ?? this.#lastAt;
    if (one === null) {
      this.#report(`${where} is not a record: it was changed`);
      // The number in the next line shows whether this was one line.
      if (last !== null) this.#last = { seq: last.seq + 1, hash, where };
      return;
    }
    if (last === null) {
      this.#first = one;
      if (this.#removed !== null && one.seq > this.#removed.seq + 1) {
        this.#report(`${where}: records ${this.#removed.seq + 1} to ${one.seq - 1} are missing before it`);
      }
      const { seq, hash: before } = this.#removed ?? CHAIN_START;
      if (one.seq === seq + 1 && before !== null && one.prev !== before) this.#report(`${where}: it was changed`);
    } else if (one.seq > last.seq + 1) {
      this.#report(`${where}: records ${last.seq + 1} to ${one.seq - 1} are missing before it`);
    } else if (one.seq <= last.seq) {
      this.#report(`${where}: record ${one.seq} is out of order, after record ${last.seq}`);
    } else if (one.prev !== last.hash) {
      this.#report(`${last.where}: it was changed, record ${one.seq} does not match it`);
    }
    if (one.seq === this.#known?.seq && hash !== this.#known.hash) {
      this.#report(`${where}: it was changed, the end of the log does not match it`);
    }
    this.#last = { seq: one.seq, hash, where };
  }

  end(): ChainReport {
    const seq = this.#last?.seq ?? 0;
    const known = this.#known?.seq ?? 0;
    if (seq < known) this.#report(`records ${seq + 1} to ${known} are missing at the end`);
    return {
      records: this.#count,
      firstSeq: this.#first?.seq ?? null,
      lastSeq: this.#last?.seq ?? null,
      lastHash: this.#last?.hash ?? null,
      firstAt: this.#first?.at ?? null,
      lastAt: this.#lastAt,
      // A killed daemon noted the removal, but did not remove the file.
      removed: Math.min(this.#removed?.seq ?? 0, (this.#first?.seq ?? Number.POSITIVE_INFINITY) - 1),
      problems: this.#problems,
      problemCount: this.#problemCount,
    };
  }

  #report(problem: string): void {
    this.#problemCount += 1;
    if (this.#problems.length < PROBLEMS_SHOWN_MAX) this.#problems.push(problem);
  }
}

const PROBLEMS_SHOWN_MAX = 20;

export interface ChainReport {
  readonly records: number;
  /** `null` without a record. */
  readonly firstSeq: number | null;
  readonly lastSeq: number | null;
  /** Keep it elsewhere: anyone who can write to the files can write a whole new chain. */
  readonly lastHash: string | null;
  readonly firstAt: string | null;
  readonly lastAt: string | null;
  /** Number of older records, which were removed with the oldest files and are not checked. */
  readonly removed: number;
  /** The first problems, each with its place. */
  readonly problems: readonly string[];
  readonly problemCount: number;
}
