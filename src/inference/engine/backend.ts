/**
 * The interface of a model. `llama.ts` implements it; tests use a scripted backend, so they cover the API
 * without a model.
 */
export interface Backend {
  readonly info: BackendInfo;
  /** The tokens of a prompt, and the strings at which its format ends an answer. Pure, fast. */
  prepare(prompt: Prompt): PreparedPrompt;
  /**
   * Continues `tokens`. Yields `prompt` once, then `token` for each token, until the model ends its answer.
   * Stops when `signal` aborts or the consumer leaves the loop. The caller must not run more than
   * `info.slots` generations at a time.
   */
  generate(options: GenerateOptions): AsyncIterable<GenerateEvent>;
  /** Returns a vector of Euclidean length 1 with `info.embeddingLength` numbers. One call at a time. */
  embed(input: string | readonly number[], signal: AbortSignal): Promise<EmbeddingResult>;
  close(): Promise<void>;
}

/** The processor that runs the model. */
export interface ProcessorInfo {
  readonly gpu: 'cpu' | 'cuda' | 'vulkan' | 'metal';
  /** Name of the device, or null for the CPU. */
  readonly device: string | null;
}

export interface BackendInfo extends ProcessorInfo {
  /** Layers of the model that are on the GPU; 0 on the CPU. */
  readonly gpuLayers: number;
  /** Layers of the model, with the output layer. */
  readonly layers: number;
  /** CPU threads for inference. */
  readonly threads: number;
  /** Limit for one prompt and its answer, tokens. */
  readonly contextTokens: number;
  /** Number of concurrent generations. */
  readonly slots: number;
  readonly embeddingLength: number;
  /** Limit for one text to embed, tokens. */
  readonly embeddingTokens: number;
  /** True when the model has a chat template; false for a base model, which only continues text. */
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
  /** 0: always the most likely token. */
  readonly temperature: number;
  readonly topP: number;
  readonly seed: number | null;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
}

export interface GrammarUse {
  /** GBNF, llama.cpp's grammar notation; the start symbol is `root`. */
  readonly gbnf: string;
  /** Not null: the grammar applies only to an answer whose first visible characters are these. */
  readonly onlyAfter: string | null;
}

export interface GenerateOptions {
  readonly tokens: readonly number[];
  /** Limit for the answer, tokens; prompt and answer must fit in the context. */
  readonly maxTokens: number;
  readonly sampling: Sampling;
  readonly grammar: GrammarUse | null;
  /** Requests share computed prefixes only within one salt, so there is no timing channel between tenants. */
  readonly cacheSalt: string;
  readonly signal: AbortSignal;
}

export type GenerateEvent =
  /** The prompt is processed; `cachedTokens` of it came from an earlier request. */
  | { readonly kind: 'prompt'; readonly cachedTokens: number }
  /** One token; its text is empty while a character is incomplete. */
  | { readonly kind: 'token'; readonly text: string }
  /** The last event: at the limit of tokens, the shortest text that completes an answer with a grammar. */
  | { readonly kind: 'closing'; readonly text: string; readonly tokens: number };

export interface EmbeddingResult {
  readonly vector: Float32Array;
  /** Tokens of the input, for usage. */
  readonly tokens: number;
}
