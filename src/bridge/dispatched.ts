/** A request that has been sent upstream, and its record. Pure. */
import type { Span } from '../trace/trace.ts';
import { INTER_TOKEN_BOUNDS, type UnsentOutcome } from './bridge-metrics.ts';
import type { Inspection, Operation } from './dialect/dialect.ts';
import { AnswerNotes } from './record/answer-notes.ts';
import type { Translated } from './relay/relay-translated.ts';
import type { Track } from './tape/tape.ts';
import { TokenTimes } from './token-times.ts';
import type { UpstreamApi } from './upstream/address.ts';
import type { TokenCounts, UsageRecord } from './usage.ts';

export type ExchangeEnd = 'served' | 'refused' | 'failed' | 'cancelled';

/** The outcome to count for a request that was not sent. Null: a model list, which is no inference. */
export const UNSENT: Readonly<Record<ExchangeEnd, UnsentOutcome | null>> = {
  served: null,
  refused: 'refused',
  failed: 'upstream-lost',
  cancelled: 'cancelled',
};

/** An inference request that has been sent upstream. */
export interface Dispatched {
  readonly operation: Operation;
  readonly inspection: Inspection;
  /** That of the upstream. */
  readonly api: UpstreamApi;
  /** Undefined: it is the guest's dialect, too. */
  readonly translated: Translated | undefined;
  readonly model: string;
  readonly track: Track | undefined;
  /** The upstream's name of the model. */
  readonly answeredBy: string;
  /** The upstream's name. */
  readonly upstream: string;
  readonly notes: AnswerNotes;
  readonly bodyEndAtMs: number;
  readonly sentAtMs: number;
  readonly tokens: TokenTimes;
  readonly span: Span;
  /** The upstream may have seen the request. */
  isSeen: boolean;
  counts: () => TokenCounts;
  /** True when the guest has the whole answer. */
  complete: () => boolean;
  outcome: UsageRecord['outcome'];
}

/** As it is until something of its answer is known. */
export function dispatch(
  request: Omit<Dispatched, 'isSeen' | 'counts' | 'complete' | 'outcome' | 'tokens' | 'notes'>,
): Dispatched {
  const { promptTokensEstimate: promptTokens } = request.inspection;
  return {
    ...request,
    tokens: new TokenTimes(request.bodyEndAtMs, INTER_TOKEN_BOUNDS),
    notes: new AnswerNotes(),
    isSeen: false,
    counts: () => ({ promptTokens, completionTokens: 0, estimated: true }),
    complete: () => false,
    outcome: 'upstream-lost',
  };
}

/** The model's answer comes at once. */
export const isWhole = ({ operation, inspection }: Dispatched): boolean =>
  operation.generates && !inspection.stream;

/** @param status that the guest got; @param times milliseconds of one clock */
export function usageRecord(
  { operation, inspection, model, counts, outcome, bodyEndAtMs, sentAtMs }: Dispatched,
  sandboxId: string,
  status: number,
  times: {
    readonly startedAtMs: number;
    readonly firstByteAtMs: number | null;
    readonly endAtMs: number;
  },
): UsageRecord {
  const { startedAtMs, firstByteAtMs, endAtMs } = times;
  const { cachedTokens: _cached, ...tokens } = counts();
  return {
    sandboxId,
    model,
    operation: operation.name,
    ...tokens,
    stream: inspection.stream,
    status,
    outcome,
    timings: {
      queueMs: sentAtMs - bodyEndAtMs,
      ttftMs: firstByteAtMs === null ? null : firstByteAtMs - bodyEndAtMs,
      totalMs: endAtMs - startedAtMs,
    },
  };
}
