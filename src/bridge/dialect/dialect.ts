/** The rules of one API that clients speak. Pure: requests in, decisions out.  */
import type { JsonObject } from '../json-body.ts';
import type { BridgePolicy, ModelEntry } from '../policy.ts';
import type { Checked, Refusal } from '../refusal.ts';

export type Route =
  | { readonly kind: 'models' }
  | { readonly kind: 'model'; readonly id: string }
  | { readonly kind: 'inference'; readonly operation: Operation };

export interface Operation {
  readonly name: string;
  /** Path below the upstream's base, e.g. `/chat/completions`. Never from the guest. */
  readonly upstreamPath: string;
  /** The body must have at least one of these members. */
  readonly required: readonly string[];
  /** False for embeddings. */
  readonly generates: boolean;
}

export interface Inspection {
  /** Name from the request; undefined if it has none. */
  readonly model: string | undefined;
  readonly stream: boolean;
  /** True when the answer will have a usage event that the client did not ask for. */
  readonly hideUsage: boolean;
  readonly promptTokensEstimate: number;
  /** Labels by which the upstream tells users or caches apart; it gets a hash of each and the sandbox's id. */
  readonly bound: Readonly<Record<string, string>>;
  /** Top-level members to replace or add before the request goes upstream. */
  readonly edits: Readonly<Record<string, unknown>>;
}

export interface Dialect {
  readonly name: string;
  route(method: string, url: string): Checked<Route>;
  inspect(operation: Operation, body: JsonObject, policy: BridgePolicy): Checked<Inspection>;
  /** Body of an error answer. */
  error(refusal: Refusal): string;
  /** The event that reports an error after the status has been sent. */
  errorEvent(refusal: Refusal): string;
  /** A comment that keeps a silent stream alive. */
  readonly keepAlive: string;
  modelList(models: readonly ModelEntry[]): unknown;
  model(model: ModelEntry): unknown;
}
