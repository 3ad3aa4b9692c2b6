/**
 * The span of one model request, with attributes of OpenTelemetry's conventions for generative AI (gen_ai.*), and the
 * trace headers for the upstream. Pure.
 */
import { formatTraceparent, type Span, type Tracer } from '../../base/trace/trace.ts';
import type { UsageRecord } from './usage.ts';

/**
 * Starts the span in the trace of the sandbox's current operation, or else in the guest's own trace.
 * @param traceparent the guest's header
 */
export function beginTrace(
  { tracer, sandboxId }: { readonly tracer: Tracer; readonly sandboxId: string },
  traceparent: string | readonly string[] | undefined,
  request: { readonly operation: string; readonly model: string; readonly stream: boolean },
): Span {
  const { operation, model, stream } = request;
  return tracer.start(`${operation} ${model}`, {
    kind: 'client',
    parent: tracer.parentOf(sandboxId, typeof traceparent === 'string' ? traceparent : undefined),
    attributes: {
      'gen_ai.operation.name': operation,
      'gen_ai.request.model': model,
      'gen_ai.request.stream': stream,
      'neurovisor.sandbox.id': sandboxId,
    },
  });
}

export function traceHeaders({ context }: Span): Readonly<Record<string, string>> {
  if (context === null) return {};
  return { traceparent: formatTraceparent(context), 'x-trace-id': context.traceId };
}

export function endTrace(
  span: Span,
  usage: UsageRecord,
  at: { readonly bodyEndAtMs: number; readonly sentAtMs: number; readonly firstAtMs: number | null },
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
