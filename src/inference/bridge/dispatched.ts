/** A request that has been sent upstream, and its usage record. Pure. */
import type { Span } from '../../base/trace/trace.ts';
import { INTER_TOKEN_BOUNDS, type UnsentOutcome } from './bridge-metrics.ts';
import type { Inspection, Operation } from './dialect/dialect.ts';
import type { AnswerNotes } from './record/answer-notes.ts';
import type { Translated } from './relay/relay-translated.ts';
import type { CacheDraft } from './response-cache/response-cache.ts';
import type { Track } from './tape/tape.ts';
import { TokenTimes } from './token-times.ts';
import type { UpstreamApi } from './upstream/address.ts';
import { NO_TOKENS, type TokenCounts, type UsageRecord } from './usage.ts';

export type ExchangeEnd = 'served' | 'refused' | 'failed' | 'cancelled';

/** The outcome to count for a request that was not sent; `null` for a model list, which is no inference. */
export const UNSENT: Readonly<Record<ExchangeEnd, UnsentOutcome | null>> = {
  served: null,
  refused: 'refused',
  failed: 'upstream-lost',
  cancelled: 'cancelled',
};

export interface Dispatched {
  readonly operation: Operation;
  readonly inspection: Inspection;
  readonly api: UpstreamApi;
  /** Undefined if the upstream speaks the guest's dialect. */
  readonly translated: Translated | undefined;
  readonly model: string;
  readonly track: Track | undefined;
  /** Where the answer is cached; undefined if it is not. */
  readonly draft?: CacheDraft | undefined;
  /** Answer tokens that the budget allows; infinite without a limit. */
  readonly outputMax?: number;
  /** True if the answer comes from the cache, so no upstream has the request. */
  readonly isCached?: boolean;
  /** The upstream's name for the model. */
  readonly answeredBy: string;
  readonly upstream: string;
  readonly notes: AnswerNotes;
  readonly bodyEndAtMs: number;
  readonly sentAtMs: number;
  readonly tokens: TokenTimes;
  readonly span: Span;
  isSeen: boolean;
  counts: () => TokenCounts;
  /** True if the guest has the whole answer. */
  complete: () => boolean;
  outcome: UsageRecord['outcome'];
}

export function dispatch(
  request: Omit<Dispatched, 'isSeen' | 'counts' | 'complete' | 'outcome' | 'tokens'>,
): Dispatched {
  const { promptTokensEstimate: promptTokens } = request.inspection;
  return {
    ...request,
    tokens: new TokenTimes(request.bodyEndAtMs, INTER_TOKEN_BOUNDS),
    isSeen: false,
    counts: () => ({ promptTokens, completionTokens: 0, estimated: true }),
    complete: () => false,
    outcome: 'upstream-lost',
  };
}

/** True if the answer may be given to others: a nearly spent budget must not shorten theirs. */
export function isForOthers({ outcome, counts, outputMax = Infinity }: Dispatched): boolean {
  if (outcome !== 'ok' || outputMax === Infinity) return outcome === 'ok';
  const { completionTokens, estimated } = counts();
  return !estimated && completionTokens < outputMax;
}

export const isWhole = ({ operation, inspection }: Dispatched): boolean => operation.generates && !inspection.stream;

/** @param status sent to the guest; @param times in milliseconds of one clock */
export function usageRecord(
  dispatched: Dispatched,
  sandboxId: string,
  status: number,
  times: { readonly startedAtMs: number; readonly firstByteAtMs: number | null; readonly endAtMs: number },
): UsageRecord {
  const { startedAtMs, firstByteAtMs, endAtMs } = times;
  const { operation, inspection, model, counts, outcome, bodyEndAtMs, sentAtMs } = dispatched;
  const isCached = dispatched.isCached === true;
  const { cachedTokens: _cached, ...tokens } = isCached ? NO_TOKENS : counts();
  return {
    sandboxId,
    model,
    operation: operation.name,
    ...tokens,
    stream: inspection.stream,
    ...(isCached ? { cached: true as const } : {}),
    status,
    outcome,
    timings: {
      queueMs: sentAtMs - bodyEndAtMs,
      ttftMs: firstByteAtMs === null ? null : firstByteAtMs - bodyEndAtMs,
      totalMs: endAtMs - startedAtMs,
    },
  };
}
