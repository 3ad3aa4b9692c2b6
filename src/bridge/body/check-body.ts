/** Checks the body of an inference request. Pure, so that it can run in a thread (`body-worker.ts`). */
import { assert } from '../../base/assert.ts';
import type { Inspection, Operation } from '../dialect/dialect.ts';
import { DIALECTS } from '../dialect/dialects.ts';
import { type JsonLayout, type JsonLimits, parseJsonBody } from '../json-body.ts';
import type { BridgePolicy } from '../policy.ts';
import { accepted, type Checked } from '../refusal.ts';

/** Plain data: it is sent to a thread. */
export interface BodyCheck {
  /** A name in `DIALECTS`. */
  readonly dialect: string;
  readonly operation: Operation;
  readonly policy: BridgePolicy;
  readonly limits: JsonLimits;
}

export interface CheckedBody {
  readonly inspection: Inspection;
  /** For `editJson`. */
  readonly layout: JsonLayout;
}

export function checkBody(bytes: Buffer, check: BodyCheck): Checked<CheckedBody> {
  const dialect = DIALECTS[check.dialect];
  assert(dialect !== undefined, 'a known dialect');
  const body = parseJsonBody(bytes, check.limits);
  if (!body.ok) return body;
  const inspected = dialect.inspect(check.operation, body.value.value, check.policy);
  if (!inspected.ok) return inspected;
  return accepted({ inspection: inspected.value, layout: body.value.layout });
}
