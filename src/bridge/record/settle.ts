/** The end of a request: its metrics, its span, its usage, its records. */
import {
  type Dispatched,
  type ExchangeEnd,
  isForOthers,
  UNSENT,
  usageRecord,
} from '../dispatched.ts';
import type { ExchangeContext } from '../exchange-context.ts';
import type { Reply } from '../reply.ts';
import { endTrace } from '../trace.ts';

/** What is known of a request before its body is checked. */
export interface RequestHead {
  readonly dialect: string;
  readonly startedAtMs: number;
  /** Undefined: it asks no model. */
  operation?: string;
  /** As the guest names it. */
  model?: string | undefined;
  stream?: boolean;
}

export function settleSent(
  context: ExchangeContext,
  { dialect, startedAtMs }: RequestHead,
  dispatched: Dispatched,
  { firstByteAtMs, status }: Pick<Reply, 'firstByteAtMs' | 'status'>,
  costNanoDollars: number | null,
): void {
  const { clock, onUsage, sandboxId, metrics, records } = context;
  const { bodyEndAtMs, sentAtMs, tokens, span, notes, upstream, answeredBy } = dispatched;
  dispatched.draft?.end(isForOthers(dispatched));
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
    upstream,
    upstreamModel: answeredBy,
    traceId: span.context?.traceId ?? null,
    costNanoDollars,
    tools: notes.tools,
    toolCalls: notes.toolCalls,
  });
}

/** Counts a request, and records it if it was refused. */
export function countEnd(
  { metrics, records, sandboxId, clock }: ExchangeContext,
  { dialect, startedAtMs, operation, model, stream = false }: RequestHead,
  { refusal, status }: Pick<Reply, 'refusal' | 'status'>,
  end: ExchangeEnd,
  isSent: boolean,
): void {
  if (refusal !== null) metrics.countError(refusal.code);
  if (isSent) return;
  const outcome = UNSENT[end];
  if (outcome !== null) metrics.countUnsent(dialect, outcome);
  if (refusal === null || operation === undefined) return;
  const asked = { sandboxId, dialect, operation, model: model ?? null, stream };
  records.refused({ ...asked, status, code: refusal.code, totalMs: clock.now() - startedAtMs });
}
