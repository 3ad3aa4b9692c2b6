/** Writes an answer in the form of Ollama's API: a stream with a line per part, or one object. Performs no I/O. */
import { parseObject } from '../../json-body.ts';
import { estimatedTokens } from '../../token-estimate.ts';
import type { AnswerOptions, AnswerWriter } from '../dialect.ts';
import type { AnswerEvent, AnswerUsage } from '../model.ts';

const NS_PER_MS = 1e6;

export const createdAt = ({ clock }: Pick<AnswerOptions, 'clock'>): string => new Date(clock.wall()).toISOString();

interface Said {
  readonly content?: string;
  readonly thinking?: string;
  readonly tool_calls?: readonly unknown[];
}

export function saidFields(operation: string, { content = '', ...more }: Said): object {
  return operation === 'generate'
    ? { response: content, ...more }
    : { message: { role: 'assistant', content, ...more } };
}

export class OllamaAnswerWriter implements AnswerWriter {
  readonly #options: AnswerOptions;
  readonly #startedAtMs: number;
  #firstAtMs: number | undefined;
  #content = '';
  #thinking = '';
  #calls: unknown[] = [];
  #callCount = 0;
  #name = '';
  #id = '';
  #arguments = '';
  #characters = 0;
  #usage: AnswerUsage | undefined;
  done = false;

  constructor(options: AnswerOptions) {
    this.#options = options;
    this.#startedAtMs = options.clock.now();
  }

  write(event: AnswerEvent): string {
    if ('text' in event) {
      this.#characters += event.text.length;
      this.#firstAtMs ??= this.#options.clock.now();
    }
    switch (event.type) {
      case 'text':
        return this.#say({ content: event.text });
      case 'reasoning':
        return this.#options.context.reasoning ? this.#say({ thinking: event.text }) : '';
      case 'tool-start':
        this.#id = event.id;
        this.#name = event.name;
        this.#arguments = '';
        return '';
      case 'tool-arguments':
        this.#arguments += event.text;
        return '';
      case 'tool-end':
        return this.#endCall();
      case 'usage':
        this.#usage = event.usage;
        return '';
      case 'stop':
        this.done = true;
        return this.#last(event.reason === 'length' ? 'length' : 'stop');
      default:
        return '';
    }
  }

  #endCall(): string {
    const input = this.#arguments === '' ? {} : parseObject(this.#arguments);
    // A call that was cut off must not run with partial arguments; `done_reason` says so.
    if (input === undefined) return '';
    const index = this.#callCount;
    this.#callCount += 1;
    const call = { id: this.#id, function: { index, name: this.#name, arguments: input } };
    return this.#say({ tool_calls: [call] });
  }

  #say(said: Said): string {
    if (this.#options.stream) return this.#line({ ...this.#said(said), done: false });
    this.#content += said.content ?? '';
    this.#thinking += said.thinking ?? '';
    this.#calls.push(...(said.tool_calls ?? []));
    return '';
  }

  #last(reason: string): string {
    const { promptTokensEstimate, clock, stream } = this.#options;
    const total = clock.now() - this.#startedAtMs;
    // For an answer that came whole, it is unknown when the model began it.
    const prompt = stream ? (this.#firstAtMs ?? clock.now()) - this.#startedAtMs : 0;
    return this.#line({
      ...this.#said({
        content: this.#content,
        ...(this.#thinking === '' ? {} : { thinking: this.#thinking }),
        ...(this.#calls.length === 0 ? {} : { tool_calls: this.#calls }),
      }),
      done: true,
      done_reason: reason,
      total_duration: Math.round(total * NS_PER_MS),
      load_duration: 0,
      prompt_eval_count: this.#usage?.inputTokens ?? promptTokensEstimate,
      prompt_eval_duration: Math.round(prompt * NS_PER_MS),
      eval_count: this.#usage?.outputTokens ?? estimatedTokens(this.#characters),
      // At least 1, since clients divide by it.
      eval_duration: Math.max(1, Math.round((total - prompt) * NS_PER_MS)),
    });
  }

  #said(said: Said): object {
    return saidFields(this.#options.operation.name, said);
  }

  #line(more: object): string {
    const line = { model: this.#options.model, created_at: createdAt(this.#options), ...more };
    return JSON.stringify(line) + (this.#options.stream ? '\n' : '');
  }
}

/** Passes numbers as the upstream wrote them. */
export class OllamaVectorWriter implements AnswerWriter {
  readonly #options: AnswerOptions;
  readonly #startedAtMs: number;
  #usage: AnswerUsage | undefined;
  done = false;

  constructor(options: AnswerOptions) {
    this.#options = options;
    this.#startedAtMs = options.clock.now();
  }

  write(event: AnswerEvent): string {
    const { operation, model, clock, promptTokensEstimate } = this.#options;
    const isOne = operation.name === 'embeddings';
    switch (event.type) {
      case 'start':
        return isOne ? '{"embedding":' : `{"model":${JSON.stringify(model)},"embeddings":[`;
      case 'vectors':
        return event.text;
      case 'usage':
        this.#usage = event.usage;
        return '';
      case 'stop': {
        this.done = true;
        const more = JSON.stringify({
          total_duration: Math.round((clock.now() - this.#startedAtMs) * NS_PER_MS),
          load_duration: 0,
          prompt_eval_count: this.#usage?.inputTokens ?? promptTokensEstimate,
        });
        return isOne ? '}' : `],${more.slice(1)}`;
      }
      default:
        return '';
    }
  }
}
