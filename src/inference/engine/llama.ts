/** Runs the model with llama.cpp, through node-llama-cpp (io). */
import type {
  ChatHistoryItem,
  ChatWrapper,
  Llama,
  LlamaContext,
  LlamaContextSequence,
  LlamaEmbeddingContext,
  LlamaGrammar,
  LlamaModel,
  SequenceEvaluateOptions,
  Token,
} from 'node-llama-cpp';
import type {
  Backend,
  BackendInfo,
  EmbeddingResult,
  GenerateEvent,
  GenerateOptions,
  PreparedPrompt,
  Prompt,
  Turn,
} from './backend.ts';
import { chooseChatWrapper } from './chat-template.ts';
import { EngineError } from './errors.ts';
import {
  checkModelFile,
  importLibrary,
  type Library,
  type LlamaOptions,
  loadModel,
  type Notice,
  processorOf,
} from './load.ts';
import { Rounds } from './rounds.ts';
import { SaltedCache } from './salted-cache.ts';

/** Tokens computed between two checks of the abort signal: a tenth of a second on a CPU. */
const PREFILL_CHUNK_TOKENS = 128;
const GRAMMARS_MAX = 16;
const EMBEDDING_TOKENS_MAX = 2_048;
/** Upper bound of tokens that form one character: 4 bytes of UTF-8, one token each, and one to spare. */
const CHARACTER_TOKENS_MAX = 5;
/** Number of the answer's last tokens that the repetition penalties consider. */
const PENALTY_TOKENS = 64;
/**
 * The last hidden state of a causal model predicts the next token, so the prompt asks for the topic. On a dozen
 * sentences this ranked the right one first in 10 of 10 searches, mean pooling in 7. Method: Jiang et al., "Scaling
 * Sentence Embeddings with Large Language Models" (PromptEOL), 2023.
 */
const EMBEDDING_FRAME = { before: 'The topic of the text "', after: '" is: "' } as const;

/**
 * @param notice receives warnings although the model can be used
 * @throws EngineError `engine_missing`, `gpu_unavailable`, `model_missing`, `model_invalid`, `out_of_memory`,
 * `gpu_out_of_memory`
 */
export async function loadLlama(options: LlamaOptions, notice: Notice): Promise<Backend> {
  await checkModelFile(options.modelPath);
  const library = await importLibrary();
  const loaded = await loadModel(library, options, notice);
  const { llama, model, context, threads, slots, gpuLayers, layers } = loaded;
  const wrapper = chooseChatWrapper(library, model, notice);
  return new LlamaBackend(
    { library, llama, model, context, wrapper },
    {
      ...(await processorOf(llama)),
      gpuLayers,
      layers,
      threads,
      contextTokens: context.contextSize,
      slots,
      embeddingLength: model.embeddingVectorSize,
      embeddingTokens: Math.min(EMBEDDING_TOKENS_MAX, model.trainContextSize),
      chatTemplate: wrapper !== null,
    },
  );
}

interface Sequence {
  readonly llama: LlamaContextSequence;
  busy: boolean;
  salt: string;
  /** Value of the use counter at the last use, to find the least recently used sequence. */
  usedAt: number;
}

interface Parts {
  readonly library: Library;
  readonly llama: Llama;
  readonly model: LlamaModel;
  readonly context: LlamaContext;
  /** `null` if the model has no chat template. */
  readonly wrapper: ChatWrapper | null;
}

class LlamaBackend implements Backend {
  readonly info: BackendInfo;
  readonly #library: Library;
  readonly #llama: Llama;
  readonly #model: LlamaModel;
  readonly #sequences: Sequence[];
  readonly #wrapper: ChatWrapper | null;
  readonly #rounds = new Rounds();
  readonly #grammars = new SaltedCache(GRAMMARS_MAX, (gbnf) => this.#compile(gbnf));
  #embedder: Promise<LlamaEmbeddingContext> | undefined;
  #uses = 0;

  constructor({ library, llama, model, context, wrapper }: Parts, info: BackendInfo) {
    this.info = info;
    this.#library = library;
    this.#llama = llama;
    this.#model = model;
    this.#wrapper = wrapper;
    this.#sequences = Array.from({ length: info.slots }, () => ({
      llama: context.getSequence(),
      busy: false,
      salt: '',
      usedAt: 0,
    }));
  }

  prepare(prompt: Prompt): PreparedPrompt {
    switch (prompt.kind) {
      case 'text':
        return { tokens: this.#withBos(this.#model.tokenize(prompt.text)), stops: [] };
      case 'tokens':
        return { tokens: this.#checkTokens(prompt.tokens), stops: [] };
      case 'chat':
        return this.#renderChat(prompt.turns, prompt.prefill);
    }
  }

  async *generate(options: GenerateOptions): AsyncIterable<GenerateEvent> {
    const tokens = options.tokens as readonly Token[] as Token[];
    const sequence = this.#chooseSequence(tokens, options.cacheSalt);
    sequence.busy = true;
    try {
      const cachedTokens = await this.#prefill(sequence, tokens, options);
      yield { kind: 'prompt', cachedTokens };
      yield* this.#write(sequence.llama, tokens, options);
    } finally {
      sequence.busy = false;
    }
  }

  async embed(input: string | readonly number[], signal: AbortSignal): Promise<EmbeddingResult> {
    this.#embedder ??= this.#model
      .createEmbeddingContext({
        contextSize: this.info.embeddingTokens,
        batchSize: this.info.embeddingTokens,
        threads: this.info.threads,
      })
      .catch((error: unknown) => {
        this.#embedder = undefined;
        throw new EngineError('out_of_memory', 'not enough memory for embeddings', { cause: error });
      });
    const embedder = await this.#embedder;
    const own = typeof input === 'string' ? this.#model.tokenize(input) : this.#checkTokens(input);
    const framed = this.#frame(own);
    if (framed.length >= this.info.embeddingTokens) {
      throw new EngineError(
        'context_length_exceeded',
        `the input has ${own.length} tokens; the limit is ${this.info.embeddingTokens}`,
        { param: 'input' },
      );
    }
    signal.throwIfAborted();
    const embedding = await embedder.getEmbeddingFor(framed);
    const vector = Float32Array.from(embedding.vector);
    return { vector: normalize(vector), tokens: own.length };
  }

  async close(): Promise<void> {
    await this.#llama.dispose();
  }

  /** An embedding model does its own pooling; a causal one gets a prompt that asks for the topic. */
  #frame(tokens: readonly Token[]): Token[] {
    const architecture = this.#model.fileInfo.architectureMetadata;
    if (architecture.pooling_type !== undefined) return [...tokens];
    return [...this.#model.tokenize(EMBEDDING_FRAME.before), ...tokens, ...this.#model.tokenize(EMBEDDING_FRAME.after)];
  }

  #renderChat(turns: readonly Turn[], prefill: string): PreparedPrompt {
    if (this.#wrapper === null) throw new Error('this model has no chat template');
    const { contextText, stopGenerationTriggers } = this.#wrapper.generateContextState({
      chatHistory: [...turns.map(historyItem), { type: 'model', response: [] }],
    });
    const tokens = [...contextText.tokenize(this.#model.tokenizer), ...this.#model.tokenize(prefill)];
    // End tokens end the generation; only plain-text triggers must be searched for.
    const stops = stopGenerationTriggers.flatMap((trigger) => {
      const { values } = trigger;
      const [only] = values;
      return values.length === 1 && typeof only === 'string' ? [only] : [];
    });
    return { tokens, stops };
  }

  #withBos(tokens: readonly Token[]): Token[] {
    const { bos, shouldPrependBosToken } = this.#model.tokens;
    return bos !== null && shouldPrependBosToken ? [bos, ...tokens] : [...tokens];
  }

  #checkTokens(tokens: readonly number[]): Token[] {
    const size = this.#model.fileInfo.metadata.tokenizer?.ggml?.tokens?.length ?? 0;
    const wrong = tokens.find((token) => token >= size);
    if (wrong !== undefined) {
      throw new EngineError('bad_request', `token ${wrong} is not in the model's vocabulary`);
    }
    return tokens as readonly Token[] as Token[];
  }

  /** The free sequence with the longest cached prefix of the prompt, else the least recently used one. */
  #chooseSequence(tokens: Token[], salt: string): Sequence {
    let best: { sequence: Sequence; known: number } | undefined;
    for (const sequence of this.#sequences) {
      if (sequence.busy) continue;
      const known = sequence.salt === salt ? sequence.llama.compareContextTokens(tokens).firstDifferentIndex : 0;
      const better =
        best === undefined || known > best.known || (known === best.known && sequence.usedAt < best.sequence.usedAt);
      if (better) best = { sequence, known };
    }
    if (best === undefined) throw new Error('more generations than slots');
    best.sequence.usedAt = ++this.#uses;
    return best.sequence;
  }

  /** Computes the prompt except its last token. Returns the number of cached tokens. */
  async #prefill(sequence: Sequence, tokens: Token[], options: GenerateOptions): Promise<number> {
    const { llama } = sequence;
    if (sequence.salt !== options.cacheSalt) await llama.clearHistory();
    sequence.salt = options.cacheSalt;
    const body = tokens.slice(0, -1);
    await llama.adaptStateToTokens(body, false);
    const cachedTokens = llama.nextTokenIndex;
    for (let at = cachedTokens; at < body.length; at += PREFILL_CHUNK_TOKENS) {
      options.signal.throwIfAborted();
      const chunk = body.slice(at, at + PREFILL_CHUNK_TOKENS);
      await this.#rounds.step(() => llama.evaluateWithoutGeneratingNewTokens(chunk));
    }
    return cachedTokens;
  }

  async *#write(
    sequence: LlamaContextSequence,
    prompt: Token[],
    options: GenerateOptions,
  ): AsyncIterable<GenerateEvent> {
    const written: Token[] = [];
    let pending: Token[] = [];
    const reply = { text: '' };
    const generation = sequence.evaluate(prompt.slice(-1), this.#evaluateOptions(options, written, reply));
    for await (const token of this.#rounds.each(generation)) {
      if (options.signal.aborted) break;
      pending.push(token);
      const before = written.slice(0, written.length + 1 - pending.length);
      let text = this.#model.detokenize(pending, false, before);
      if (text.endsWith('\ufffd') && pending.length < CHARACTER_TOKENS_MAX) text = '';
      else pending = [];
      written.push(token);
      if (reply.text.length < 8) reply.text += text;
      yield { kind: 'token', text };
      if (written.length >= options.maxTokens) break;
    }
    options.signal.throwIfAborted();
  }

  #evaluateOptions(
    options: GenerateOptions,
    written: Token[],
    reply: { readonly text: string },
  ): SequenceEvaluateOptions {
    const { sampling, grammar, cacheSalt } = options;
    const penalised = sampling.presencePenalty !== 0 || sampling.frequencyPenalty !== 0;
    return {
      temperature: sampling.temperature,
      topP: sampling.topP,
      ...(sampling.seed === null ? {} : { seed: sampling.seed >>> 0 }),
      ...(penalised
        ? {
            repeatPenalty: {
              punishTokens: () => written.slice(-PENALTY_TOKENS),
              maxPunishTokens: PENALTY_TOKENS,
              penalty: 1,
              presencePenalty: sampling.presencePenalty,
              frequencyPenalty: sampling.frequencyPenalty,
            },
          }
        : {}),
      ...(grammar === null ? {} : { grammarEvaluationState: this.#grammarState(grammar, cacheSalt, reply) }),
    };
  }

  #grammarState(
    use: NonNullable<GenerateOptions['grammar']>,
    salt: string,
    reply: { readonly text: string },
  ): NonNullable<SequenceEvaluateOptions['grammarEvaluationState']> {
    const grammar = this.#grammars.get(salt, use.gbnf);
    const state = new this.#library.LlamaGrammarEvaluationState({ model: this.#model, grammar });
    const { onlyAfter } = use;
    if (onlyAfter === null) return state;
    return () => {
      const begin = reply.text.trimStart();
      return begin === '' || begin.startsWith(onlyAfter) ? state : undefined;
    };
  }

  #compile(gbnf: string): LlamaGrammar {
    try {
      return new this.#library.LlamaGrammar(this.#llama, { grammar: gbnf });
    } catch (error) {
      throw new EngineError('bad_request', 'llama.cpp rejects the grammar of the schema', { cause: error });
    }
  }
}

function historyItem(turn: Turn): ChatHistoryItem {
  return turn.role === 'assistant' ? { type: 'model', response: [turn.text] } : { type: turn.role, text: turn.text };
}

function normalize(vector: Float32Array): Float32Array {
  const length = Math.hypot(...vector);
  return length === 0 ? vector : vector.map((value) => value / length);
}
