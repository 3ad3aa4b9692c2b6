/** Checks the body of a request off the event loop, with the kept responses that it refers to (io). */
import type { ContentMode } from '../../../base/text/content-mode.ts';
import { orAborted } from '../../../base/time-limit.ts';
import type { Dialect, KeptContext, Operation } from '../dialect/dialect.ts';
import type { ExchangeContext } from '../exchange-context.ts';
import { jsonLimits } from '../json-body.ts';
import { UPSTREAM_APIS } from '../upstream/address.ts';
import type { CheckedBytes } from './body-checker.ts';

export interface RequestToCheck {
  readonly dialect: Dialect;
  readonly operation: Operation;
  readonly bytes: Buffer;
  readonly contentType: string | undefined;
  readonly signal: AbortSignal;
  readonly content: ContentMode;
  /** Gets the running check; the memory of the body stays in use until it settles. */
  readonly onCheck: (checking: Promise<unknown>) => void;
}

/** Checks a second time if the first check asks for kept responses. @throws the signal's reason */
export async function checkRequest(context: ExchangeContext, request: RequestToCheck): Promise<CheckedBytes> {
  const first = await checkWith(context, request);
  const needs = first.checked.ok ? first.checked.value.needs : undefined;
  const kept = needs && request.dialect.translation?.find?.(needs, context.kept);
  if (kept === undefined) return first;
  if (!kept.ok) return { ...first, checked: kept };
  return await checkWith(context, { ...request, bytes: first.bytes }, kept.value);
}

/** The check may run in a thread, which owns the bytes meanwhile. */
async function checkWith(
  context: ExchangeContext,
  { dialect, operation, bytes, contentType, signal, onCheck, content }: RequestToCheck,
  kept?: KeptContext,
): Promise<CheckedBytes> {
  const { checker, policy, limits, sandboxId, metrics, clock, apis, tape } = context;
  const begunAtMs = clock.now();
  const check = {
    dialect: dialect.name,
    operation,
    contentType,
    policy,
    limits: jsonLimits(limits),
    // The answer that a cassette plays may come from another host's upstream.
    apis: tape === undefined ? apis.all : UPSTREAM_APIS,
    hasChoice: context.dispatcher.hasChoice,
    content,
    ...(kept === undefined ? {} : { kept }),
  };
  const loopTime = context.bodyTime;
  const checking = checker.check({ sandboxId, loopTime, bytes, check, signal });
  onCheck(checking);
  const result = await orAborted(checking, signal);
  metrics.countCheck(result.where, clock.now() - begunAtMs);
  return result;
}
