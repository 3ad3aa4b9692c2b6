/** Records of requests to models, for a log of their own. */
import type { UsageRecord } from '../bridge/bridge.ts';
import type { AuditSink } from './audit.ts';

const MODEL_CHARACTERS_MAX = 200;

/**
 * Notes one request that has reached a model server.
 * @param tenant the sandbox's owner; null: the operator
 */
export function noteModelRequest(
  audit: AuditSink,
  tenant: string | null,
  { sandboxId, operation, model, status, outcome, timings, ...use }: UsageRecord,
): void {
  const { promptTokens, completionTokens, estimated, stream } = use;
  const { ttftMs, totalMs } = timings;
  audit.note({
    caller: { tenant, key: 'sandbox' },
    call: `MODEL ${operation}`,
    target: sandboxId,
    status,
    ms: totalMs,
    model: {
      // An upstream, or a sandbox where any name passes, chooses it.
      name: model.slice(0, MODEL_CHARACTERS_MAX).toWellFormed(),
      promptTokens,
      completionTokens,
      estimated,
      stream,
      outcome,
      firstByteMs: ttftMs === null ? null : Math.round(ttftMs),
    },
  });
}
