/**
 * What the API needs from a model. `llama.ts` is the real one; tests use a scripted one, so that all
 * of the API's behaviour is tested without a model.
 */
export interface Backend {
  readonly info: BackendInfo;
  /** The tokens of a prompt, and the strings at which its format ends an answer. Pure, fast. */
  prepare(prompt: Prompt): PreparedPrompt;
  /**
   * Writes on after `tokens`. Yields `prompt` once, then `token` for each token, until the model ends
   * its answer. Stops computing when `signal` aborts or the consumer leaves the loop.
   * At most `info.slots` generations may run at a time; the caller sees to that.
   */
  generate(options: GenerateOptions): AsyncIterable<GenerateEvent>;
  /** A vector of length 1 (Euclidean), `info.embeddingLength` numbers. One at a time. */
  embed(input: string | readonly number[], signal: AbortSignal): Promise<EmbeddingResult>;
  close(): Promise<void>;
}

export interface BackendInfo {
  /** Where the model computes. */
  readonly gpu: 'cpu' | 'cuda' | 'vulkan' | 'metal';
  /** Name of the device, or null for the CPU. */
  readonly device: string | null;
  /** CPU threads that compute. */
  readonly threads: number;
  /** Tokens that one prompt with its answer may have. */
  readonly contextTokens: number;
  /** Generations that run at the same time. */
  readonly slots: number;
  readonly embeddingLength: number;
  /** Tokens that a text for an embedding may have. */
  readonly embeddingTokens: number;
  /** True when the model brings a chat template; false for a base model, which only continues text. */
  readonly chatTemplate: boolean;
}

export type Prompt =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'tokens'; readonly tokens: readonly number[] }
  /** Turns for the model's own chat template, then the beginning of the answer. */
  | { readonly kind: 'chat'; readonly turns: readonly Turn[]; readonly prefill: string };

export interface Turn {
  readonly role: 'system' | 'user' | 'assistant';
  readonly text: string;
}

export interface PreparedPrompt {
  readonly tokens: readonly number[];
  readonly stops: readonly string[];
}

export interface Sampling {
  /** 0: always the likeliest token. */
  readonly temperature: number;
  readonly topP: number;
  readonly seed: number | null;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
}

export interface GrammarUse {
  /** GBNF, llama.cpp's grammar notation; the start symbol is `root`. */
  readonly gbnf: string;
  /** Not null: let go of the grammar once the answer's first visible character is another than this. */
  readonly onlyAfter: string | null;
}

export interface GenerateOptions {
  readonly tokens: readonly number[];
  /** Tokens to write at most; prompt and answer together fit in the context. */
  readonly maxTokens: number;
  readonly sampling: Sampling;
  readonly grammar: GrammarUse | null;
  /** Only requests with the same salt share computed prefixes (no timing channel between tenants). */
  readonly cacheSalt: string;
  readonly signal: AbortSignal;
}

export type GenerateEvent =
  /** The prompt is computed; `cachedTokens` of it were known from an earlier request. */
  | { readonly kind: 'prompt'; readonly cachedTokens: number }
  /** One token; the text is empty while a character is incomplete. */
  | { readonly kind: 'token'; readonly text: string };

export interface EmbeddingResult {
  readonly vector: Float32Array;
  /** Tokens of the input, as counted for usage. */
  readonly tokens: number;
}
