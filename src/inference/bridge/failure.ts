/** The errors that guests get when a request fails through no fault of theirs. Pure. */
import { CodedError } from '../../base/errors.ts';
import type { Refusal } from '../../base/http/refusal.ts';
import { BridgeError, UpstreamsPausedError } from './errors.ts';

/** For a bug of the bridge, which must not look like an upstream error. */
export const INTERNAL: Refusal = {
  status: 500,
  code: 'internal_error',
  message: "The inference bridge failed. See the host's log for the cause.",
};

/** For a request that a save of the sandbox ends. Programs see it when they continue, so a retry can be soon. */
export const SUSPENDED: Refusal = {
  status: 503,
  code: 'sandbox_suspended',
  message: 'The sandbox was paused or copied while this request was in flight. Retry it.',
  retryAfterSeconds: 1,
};

const RETRY_AFTER_SECONDS = 2;

/** The error for the guest. Addresses and causes stay in the log. */
export function refusalOfFailure(error: unknown): Refusal {
  if (error instanceof UpstreamsPausedError) return pausedRefusal(error);
  const code = error instanceof BridgeError ? error.code : 'upstream_unavailable';
  const remedy = error instanceof CodedError && error.remedy ? ` To fix this, ${error.remedy}.` : '';
  switch (code) {
    case 'suspended':
      return SUSPENDED;
    case 'upstream_timeout':
      return { status: 504, code, message: 'The model server did not answer in time.' };
    case 'upstream_died':
      return { status: 502, code, message: 'The model server ended its answer early.' };
    case 'upstream_failed': {
      const message = error instanceof Error ? error.message : '';
      return { status: 502, code: 'upstream_error', message };
    }
    case 'upstream_protocol':
      return { status: 502, code, message: 'The model server sent an invalid answer.' };
    default:
      return {
        status: 503,
        code,
        message: `The model server can't be reached from the host.${remedy}`,
        retryAfterSeconds: RETRY_AFTER_SECONDS,
      };
  }
}

function pausedRefusal({ code, retryInMs }: UpstreamsPausedError): Refusal {
  const retryAfterSeconds = Math.max(1, Math.ceil(retryInMs / 1000));
  const retry = `Retry in ${retryAfterSeconds} s.`;
  return code === 'upstream_limited'
    ? { status: 429, code, message: `The model server limits its use. ${retry}`, retryAfterSeconds }
    : { status: 503, code, message: `The model server fails. ${retry}`, retryAfterSeconds };
}
