/**
 * What the bridge needs to know about one family of clients. A dialect is pure: bytes and objects in,
 * decisions out. OpenAI is the first; Anthropic and Ollama answer the same questions.
 */
import type { JsonObject } from '../json-body.ts';
import type { BridgePolicy, ModelEntry } from '../policy.ts';
import type { Checked, Refusal } from '../refusal.ts';

export type Route =
  | { readonly kind: 'models' }
  | { readonly kind: 'model'; readonly id: string }
  | { readonly kind: 'inference'; readonly operation: Operation };

export interface Operation {
  readonly name: string;
  /** Below the upstream's base, e.g. `/chat/completions`. Never from the guest. */
  readonly upstreamPath: string;
  /** Members one of which the body must have. */
  readonly required: readonly string[];
  /** False for embeddings. */
  readonly generates: boolean;
}

export interface Inspection {
  /** As the guest wrote it; undefined if it named none. */
  readonly model: string | undefined;
  readonly stream: boolean;
  /** The answer will have a usage event that the client did not ask for. */
  readonly hideUsage: boolean;
  readonly promptTokensEstimate: number;
  /** Top-level members that the upstream gets with other values. */
  readonly edits: Readonly<Record<string, unknown>>;
}

export interface Dialect {
  readonly name: string;
  route(method: string, url: string): Checked<Route>;
  inspect(operation: Operation, body: JsonObject, policy: BridgePolicy): Checked<Inspection>;
  /** Body of an error answer. */
  error(refusal: Refusal): string;
  /** The event that reports an error where the status was sent already. */
  errorEvent(refusal: Refusal): string;
  /** What keeps a silent stream alive without meaning anything. */
  readonly keepAlive: string;
  modelList(models: readonly ModelEntry[]): unknown;
  model(model: ModelEntry): unknown;
}
