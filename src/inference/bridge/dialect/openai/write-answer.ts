/** Writes an answer in the form of chat completions: as chunks of a stream, or as one object. Performs no I/O. */
import { estimatedTokens } from '../../token-estimate.ts';
import type { AnswerOptions, AnswerWriter } from '../dialect.ts';
import type { AnswerEvent, AnswerUsage, StopReason } from '../model.ts';

const FINISH_REASONS: Readonly<Record<StopReason, string>> = {
  end: 'stop',
  length: 'length',
  'stop-sequence': 'stop',
  'tool-calls': 'tool_calls',
  refusal: 'content_filter',
};

interface Call {
  readonly id: string;
  readonly type: 'function';
  readonly function: { readonly name: string; arguments: string };
}

export class ChatAnswerWriter implements AnswerWriter {
  readonly #options: AnswerOptions;
  readonly #created: number;
  #usage: AnswerUsage | undefined;
  #characters = 0;
  #text = '';
  #reasoning = '';
  readonly #calls: Call[] = [];
  done = false;

  constructor(options: AnswerOptions) {
    this.#options = options;
    this.#created = Math.floor(options.clock.wall() / 1000);
  }

  write(event: AnswerEvent): string {
    this.#see(event);
    const { stream } = this.#options;
    if (event.type === 'stop') {
      this.done = true;
      const finish = FINISH_REASONS[event.reason];
      return stream ? this.#lastChunks(finish) : this.#whole(finish);
    }
    return stream ? this.#deltaOf(event) : '';
  }

  #see(event: AnswerEvent): void {
    if (event.type === 'usage') this.#usage = event.usage;
    if ('text' in event) this.#characters += event.text.length;
    if (this.#options.stream && event.type !== 'tool-start') return;
    const call = this.#calls.at(-1);
    if (event.type === 'text') this.#text += event.text;
    if (event.type === 'reasoning') this.#reasoning += event.text;
    if (event.type === 'tool-arguments' && call !== undefined) call.function.arguments += event.text;
    if (event.type !== 'tool-start') return;
    const { id, name } = event;
    this.#calls.push({ id, type: 'function', function: { name, arguments: '' } });
  }

  #deltaOf(event: AnswerEvent): string {
    const index = this.#calls.length - 1;
    switch (event.type) {
      case 'start':
        return this.#chunk({ role: 'assistant', content: '' });
      case 'text':
        return this.#chunk({ content: event.text });
      case 'reasoning':
        return this.#chunk({ reasoning_content: event.text });
      case 'tool-start':
        return this.#chunk({ tool_calls: [{ index, ...this.#calls[index] }] });
      case 'tool-arguments':
        return this.#chunk({ tool_calls: [{ index, function: { arguments: event.text } }] });
      default:
        return '';
    }
  }

  #chunk(delta: object, finish: string | null = null): string {
    const choices = [{ index: 0, delta, finish_reason: finish }];
    const hasUsage = this.#options.context.usageChunk === true;
    return sse(this.#object('chat.completion.chunk', { choices, ...(hasUsage ? { usage: null } : {}) }));
  }

  #lastChunks(finish: string): string {
    const { usageChunk } = this.#options.context;
    const more = { choices: [], usage: this.#counts() };
    const usage = usageChunk === true ? sse(this.#object('chat.completion.chunk', more)) : '';
    return `${this.#chunk({}, finish)}${usage}data: [DONE]\n\n`;
  }

  #whole(finish: string): string {
    const calls = this.#calls;
    const message = {
      role: 'assistant',
      content: this.#text === '' && calls.length > 0 ? null : this.#text,
      refusal: null,
      ...(this.#reasoning === '' ? {} : { reasoning_content: this.#reasoning }),
      ...(calls.length === 0 ? {} : { tool_calls: calls }),
    };
    const choices = [{ index: 0, message, logprobs: null, finish_reason: finish }];
    return JSON.stringify(this.#object('chat.completion', { choices, usage: this.#counts() }));
  }

  #object(object: string, more: object): object {
    const { id, model } = this.#options;
    return { id: `chatcmpl-${id}`, object, created: this.#created, model, ...more };
  }

  #counts(): object {
    const { promptTokensEstimate, showCacheHits } = this.#options;
    const given = this.#usage;
    const prompt = given?.inputTokens ?? promptTokensEstimate;
    const completion = given?.outputTokens ?? estimatedTokens(this.#characters);
    const reasoning = given?.reasoningTokens;
    return {
      prompt_tokens: prompt,
      completion_tokens: completion,
      total_tokens: prompt + completion,
      prompt_tokens_details: { cached_tokens: showCacheHits ? (given?.cachedTokens ?? 0) : 0 },
      ...(reasoning === undefined ? {} : { completion_tokens_details: { reasoning_tokens: reasoning } }),
    };
  }
}

const sse = (value: object): string => `data: ${JSON.stringify(value)}\n\n`;
