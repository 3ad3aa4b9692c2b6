/**
 * The span of one request to a model, with the names of OpenTelemetry's conventions for generative AI
 * (gen_ai.*), and what the upstream is told of it. Pure.
 */
import { formatTraceparent, type Span, type Tracer } from '../trace/trace.ts';
import type { UsageRecord } from './usage.ts';

/**
 * In the trace of what its sandbox is doing. What the guest says is taken if it is a trace of its own.
 * @param said header `traceparent` of the guest
 */
export function beginTrace(
  { tracer, sandboxId }: { readonly tracer: Tracer; readonly sandboxId: string },
  said: string | readonly string[] | undefined,
  asked: { readonly operation: string; readonly model: string; readonly stream: boolean },
): Span {
  const { operation, model, stream } = asked;
  return tracer.start(`${operation} ${model}`, {
    kind: 'client',
    parent: tracer.parentOf(sandboxId, typeof said === 'string' ? said : undefined),
    attributes: {
      'gen_ai.operation.name': operation,
      'gen_ai.request.model': model,
      'gen_ai.request.stream': stream,
      'neurovisor.sandbox.id': sandboxId,
    },
  });
}

/** Instead of the guest's own, if there is a trace. */
export function traceHeaders({ context }: Span): Readonly<Record<string, string>> {
  if (context === null) return {};
  return { traceparent: formatTraceparent(context), 'x-trace-id': context.traceId };
}

export function endTrace(
  span: Span,
  usage: UsageRecord,
  at: {
    readonly bodyEndAtMs: number;
    readonly sentAtMs: number;
    readonly firstAtMs: number | null;
  },
): void {
  span.set({
    'gen_ai.usage.input_tokens': usage.promptTokens,
    'gen_ai.usage.output_tokens': usage.completionTokens,
    'http.response.status_code': usage.status,
    'neurovisor.outcome': usage.outcome,
  });
  span.part('queue', at.bodyEndAtMs, at.sentAtMs);
  if (at.firstAtMs !== null) span.part('first token', at.sentAtMs, at.firstAtMs);
  span.end(usage.outcome === 'ok' ? undefined : usage.outcome);
}
