/** Settles a request at its end: metrics, span, usage and records. */
import { type Dispatched, type ExchangeEnd, isForOthers, UNSENT, usageRecord } from '../dispatched.ts';
import type { ExchangeContext } from '../exchange-context.ts';
import type { Reply } from '../reply.ts';
import { endTrace } from '../trace.ts';
import type { RequestHead } from './request-head.ts';

export function settleSent(
  context: ExchangeContext,
  head: RequestHead,
  dispatched: Dispatched,
  { firstByteAtMs, status }: Pick<Reply, 'firstByteAtMs' | 'status'>,
  costNanoDollars: number | null,
): void {
  const { clock, onUsage, sandboxId, metrics, records } = context;
  const { bodyEndAtMs, sentAtMs, tokens, span, upstream, answeredBy } = dispatched;
  dispatched.draft?.end(isForOthers(dispatched));
  const { dialect, startedAtMs, notes } = head;
  // A cassette has answered, so no model server had the request.
  const isReplayed = dispatched.track?.model != null;
  const times = { startedAtMs, firstByteAtMs, endAtMs: clock.now() };
  const usage = usageRecord(dispatched, sandboxId, status, times);
  if (usage.cached) metrics.countCached(dialect, usage);
  else metrics.countSent(dialect, usage, tokens);
  endTrace(span, usage, { bodyEndAtMs, sentAtMs, firstAtMs: tokens.firstAtMs });
  onUsage(usage);
  notes.end();
  records.sent({
    ...usage,
    dialect,
    upstream: isReplayed ? null : upstream,
    upstreamModel: answeredBy,
    replayed: isReplayed,
    traceId: span.context?.traceId ?? null,
    costNanoDollars: usage.cached || isReplayed ? 0 : costNanoDollars,
    tools: notes.tools,
    toolCalls: notes.toolCalls,
    content: head.content(usage.outcome === 'ok'),
  });
}

export function countEnd(
  { metrics, records, clock }: ExchangeContext,
  head: RequestHead,
  { refusal, status }: Pick<Reply, 'refusal' | 'status'>,
  end: ExchangeEnd,
  isSent: boolean,
): void {
  const { dialect, startedAtMs, operation } = head;
  head.release();
  if (refusal !== null) metrics.countError(refusal.code);
  if (isSent) return;
  const outcome = UNSENT[end];
  if (outcome !== null) metrics.countUnsent(dialect, outcome);
  if (refusal === null || operation === undefined) return;
  const totalMs = clock.now() - startedAtMs;
  records.refused({ ...head.asked(), operation, status, code: refusal.code, totalMs });
}
