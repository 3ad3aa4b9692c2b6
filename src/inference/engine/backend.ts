/**
 * The interface of a model. `llama.ts` implements it; tests use a scripted backend, which covers the API without a
 * model.
 */
export interface Backend {
  readonly info: BackendInfo;
  /** The tokens of a prompt, and the stop strings of its format. Pure, fast. */
  prepare(prompt: Prompt): PreparedPrompt;
  /**
   * Continues `tokens`. Yields `prompt` once, then `token` for each token, until the model ends its answer. Stops if
   * `signal` aborts or the consumer leaves the loop. The caller must not run more than `info.slots` generations at a
   * time.
   */
  generate(options: GenerateOptions): AsyncIterable<GenerateEvent>;
  /** Returns a vector of Euclidean length 1 with `info.embeddingLength` numbers. Call it one at a time. */
  embed(input: string | readonly number[], signal: AbortSignal): Promise<EmbeddingResult>;
  close(): Promise<void>;
}

export interface ProcessorInfo {
  readonly gpu: 'cpu' | 'cuda' | 'vulkan' | 'metal';
  /** Device name; `null` for the CPU. */
  readonly device: string | null;
}

export interface BackendInfo extends ProcessorInfo {
  /** Layers of the model on the GPU; 0 on the CPU. */
  readonly gpuLayers: number;
  /** All layers of the model, including the output layer. */
  readonly layers: number;
  readonly threads: number;
  /** Limit for one prompt and its answer, in tokens. */
  readonly contextTokens: number;
  readonly slots: number;
  readonly embeddingLength: number;
  /** Limit for one text to embed, in tokens. */
  readonly embeddingTokens: number;
  /** False for a base model, which only continues text. */
  readonly chatTemplate: boolean;
}

export type Prompt =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'tokens'; readonly tokens: readonly number[] }
  /** Turns for the model's own chat template, and the beginning of the answer after them. */
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
  /** 0 always selects the most likely token. */
  readonly temperature: number;
  readonly topP: number;
  readonly seed: number | null;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
}

export interface GrammarUse {
  /** GBNF, llama.cpp's grammar notation; the start symbol is `root`. */
  readonly gbnf: string;
  /** If set, the grammar applies only to an answer that begins with these visible characters. */
  readonly onlyAfter: string | null;
}

export interface GenerateOptions {
  readonly tokens: readonly number[];
  /** Limit for the answer in tokens; prompt and answer must fit into the context. */
  readonly maxTokens: number;
  readonly sampling: Sampling;
  readonly grammar: GrammarUse | null;
  /** Requests share computed prefixes only within one salt, which prevents a timing channel between tenants. */
  readonly cacheSalt: string;
  readonly signal: AbortSignal;
}

export type GenerateEvent =
  /** The prompt is processed; `cachedTokens` of it came from an earlier request. */
  | { readonly kind: 'prompt'; readonly cachedTokens: number }
  /** One token; its text is empty while a character is incomplete. */
  | { readonly kind: 'token'; readonly text: string };

export interface EmbeddingResult {
  readonly vector: Float32Array;
  readonly tokens: number;
}
