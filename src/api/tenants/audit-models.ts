/** Writes records of model requests to a log of their own, and their contents to another one. */
import type { Content, RefusedRequest, RequestLog, SentRequest } from '../../inference/bridge/bridge.ts';
import type { AuditSink } from './audit.ts';
import type { ModelUse } from './audit-record.ts';

const MODEL_CHARACTERS_MAX = 200;

/**
 * @param contents receives requests and answers; `null` to keep none
 * @param tenantOf returns a sandbox's owner; `null` for the operator
 */
export function modelRequestLog(
  audit: AuditSink,
  contents: AuditSink | null,
  tenantOf: (sandboxId: string) => string | null,
): RequestLog {
  return {
    sent: (request) => noteSent(audit, contents, tenantOf(request.sandboxId), request),
    refused: (request) => noteRefused(audit, tenantOf(request.sandboxId), request),
  };
}

function noteSent(
  audit: AuditSink,
  contents: AuditSink | null,
  tenant: string | null,
  { sandboxId, operation, model, status, timings, leftOut, upstreamModel, ...use }: SentRequest,
): void {
  const { queueMs, ttftMs, totalMs } = timings;
  const asked = {
    caller: { tenant, key: 'sandbox' },
    call: `MODEL ${operation}`,
    target: sandboxId,
    status,
    ms: totalMs,
  };
  const { content } = use;
  const kept = hasText(content) ? contents?.note({ ...asked, content }) : null;
  audit.note({
    ...asked,
    model: {
      // Chosen by an upstream, or by a sandbox where any name passes.
      name: shortName(model),
      promptTokens: use.promptTokens,
      completionTokens: use.completionTokens,
      estimated: use.estimated,
      stream: use.stream,
      ...(use.cached ? { cached: true as const } : {}),
      ...(use.replayed ? { replayed: true as const } : {}),
      outcome: use.outcome,
      firstByteMs: ttftMs === null ? null : Math.round(ttftMs),
      queueMs: Math.round(queueMs),
      dialect: use.dialect,
      upstream: use.upstream,
      upstreamModel: shortName(upstreamModel),
      costNanoDollars: use.costNanoDollars,
      traceId: use.traceId,
      ...(use.toolCalls === 0 ? {} : { tools: use.tools, toolCalls: use.toolCalls }),
      ...hashesOf(content),
      ...(kept == null ? {} : { content: { seq: kept.seq, sha256: kept.hash } }),
      ...(leftOut === 0 ? {} : { leftOut }),
    },
  });
}

function noteRefused(
  audit: AuditSink,
  tenant: string | null,
  { sandboxId, operation, model, status, code, totalMs, leftOut, ...asked }: RefusedRequest,
): void {
  audit.note({
    caller: { tenant, key: 'sandbox' },
    call: `MODEL ${operation}`,
    target: sandboxId,
    status,
    ms: totalMs,
    model: {
      name: shortName(model ?? ''),
      promptTokens: 0,
      completionTokens: 0,
      estimated: false,
      stream: asked.stream,
      outcome: 'refused',
      refusal: code,
      firstByteMs: null,
      dialect: asked.dialect,
      ...(leftOut === 0 ? {} : { leftOut }),
    },
  });
}

const hasText = (content: Content | null): content is Content => content !== null && content.mode !== 'hash';

function hashesOf(content: Content | null): Pick<ModelUse, 'sha256'> {
  const request = content?.request?.sha256;
  const answer = content?.answer?.sha256;
  if (request === undefined && answer === undefined) return {};
  return { sha256: { ...(request && { request }), ...(answer && { answer }) } };
}

const shortName = (name: string): string => name.slice(0, MODEL_CHARACTERS_MAX).toWellFormed();
