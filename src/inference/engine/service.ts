/** Answers requests with a backend: prompts, stop strings, token counts. No HTTP. */

import type { FinishReason, Usage } from './answer.ts';
import type { Backend, GenerateOptions, Prompt } from './backend.ts';
import { EngineError } from './errors.ts';
import type { ChatRequest, CommonRequest, CompletionRequest, EmbeddingRequest } from './openai-api.ts';
import { planChat } from './prompt.ts';
import { type ReplyEvent, ReplyReader } from './reply.ts';
import { Slots } from './slots.ts';

/** Token limit of an answer whose request has none: weak models may never stop. */
export const DEFAULT_ANSWER_TOKENS = 1_024;

export interface GenerationOutcome {
  readonly finish: FinishReason;
  readonly usage: Usage;
}

/** Consumes reply events; its promise applies back-pressure. */
export type Sink = (event: ReplyEvent) => Promise<void> | void;

/** One generation, planned by `prompt.ts` or for a plain completion. */
interface Job {
  readonly prompt: Prompt;
  readonly prefill: string;
  readonly stops: readonly string[];
  readonly grammar: GenerateOptions['grammar'];
  readonly calls: boolean;
  readonly trim: boolean;
}

export class Service {
  readonly #backend: Backend;
  readonly #slots: Slots;
  readonly #embedSlot = new Slots(1);

  constructor(backend: Backend) {
    this.#backend = backend;
    this.#slots = new Slots(backend.info.slots);
  }

  get info(): Backend['info'] {
    return this.#backend.info;
  }

  get load(): { readonly running: number; readonly waiting: number } {
    const { used, waiting } = this.#embedSlot;
    return { running: this.#slots.used + used, waiting: this.#slots.waiting + waiting };
  }

  /** @throws EngineError; the signal's reason if the client disconnects */
  chat(request: ChatRequest, signal: AbortSignal, sink: Sink): Promise<GenerationOutcome> {
    const plan = planChat(request, this.info.chatTemplate);
    return this.#run(plan, request, signal, sink);
  }

  /** @throws EngineError; the signal's reason if the client disconnects */
  complete(
    request: CompletionRequest,
    prompt: string | readonly number[],
    signal: AbortSignal,
    sink: Sink,
  ): Promise<GenerationOutcome> {
    const job: Job = {
      prompt: typeof prompt === 'string' ? { kind: 'text', text: prompt } : { kind: 'tokens', tokens: prompt },
      prefill: '',
      stops: request.stops,
      grammar: null,
      calls: false,
      trim: false,
    };
    return this.#run(job, request, signal, sink);
  }

  /** @throws EngineError; the signal's reason if the client disconnects */
  embed(request: EmbeddingRequest, signal: AbortSignal): Promise<{ vectors: Float32Array[]; tokens: number }> {
    return this.#embedSlot.run(signal, async () => {
      const vectors: Float32Array[] = [];
      let tokens = 0;
      for (const input of request.inputs) {
        signal.throwIfAborted();
        const result = await this.#backend.embed(input, signal);
        vectors.push(result.vector);
        tokens += result.tokens;
      }
      return { vectors, tokens };
    });
  }

  async #run(job: Job, request: CommonRequest, signal: AbortSignal, sink: Sink): Promise<GenerationOutcome> {
    const { tokens, stops } = this.#backend.prepare(job.prompt);
    const room = this.info.contextTokens - tokens.length;
    if (tokens.length === 0) {
      throw new EngineError('bad_request', 'the prompt is empty', { param: 'prompt' });
    }
    if (room < 1) {
      throw new EngineError(
        'context_length_exceeded',
        `the prompt has ${tokens.length} tokens; with its answer it must fit into ${this.info.contextTokens}`,
        { param: 'messages' },
      );
    }
    const maxTokens = Math.min(request.maxTokens ?? DEFAULT_ANSWER_TOKENS, room);
    return this.#slots.run(signal, () =>
      this.#generate(
        // A grammar ends its answer itself; a stop string could occur inside its JSON.
        job.grammar?.onlyAfter === null ? job : { ...job, stops: [...job.stops, ...stops] },
        { tokens, maxTokens, sampling: request.sampling, grammar: job.grammar, cacheSalt: request.cacheSalt, signal },
        sink,
      ),
    );
  }

  async #generate(job: Job, options: GenerateOptions, sink: Sink): Promise<GenerationOutcome> {
    const reader = new ReplyReader(job);
    const pass = async (events: readonly ReplyEvent[]): Promise<void> => {
      for (const event of events) await sink(event);
    };
    await pass(reader.push(job.prefill));
    let completionTokens = 0;
    let cachedTokens = 0;
    for await (const event of this.#backend.generate(options)) {
      if (event.kind === 'prompt') {
        cachedTokens = event.cachedTokens;
        continue;
      }
      completionTokens += 1;
      await pass(reader.push(event.text));
      if (reader.isDone || completionTokens >= options.maxTokens) break;
    }
    options.signal.throwIfAborted();
    // At the token limit an answer is complete only if a stop string or the end of a call was reached.
    const complete = reader.isDone || completionTokens < options.maxTokens;
    await pass(reader.end());
    return {
      finish: !complete ? 'length' : reader.isCall ? 'tool_calls' : 'stop',
      usage: { promptTokens: options.tokens.length, completionTokens, cachedTokens },
    };
  }
}
