/**
 * Writes an answer in the form of Anthropic's Messages API: as a stream of events, or as one message. Performs no I/O.
 */
import { assert } from '../../../../base/assert.ts';
import { parseObject } from '../../json-body.ts';
import { estimatedTokens } from '../../token-estimate.ts';
import type { AnswerOptions, AnswerWriter } from '../dialect.ts';
import type { AnswerEvent, AnswerUsage, StopReason } from '../model.ts';

/**
 * Placeholder for the reasoning signature of Anthropic's servers. Some clients send it back only if it is not empty;
 * the bridge ignores it.
 */
export const UNSIGNED = 'neurovisor';

const STOP_REASONS: Readonly<Record<StopReason, string>> = {
  end: 'end_turn',
  length: 'max_tokens',
  'stop-sequence': 'stop_sequence',
  'tool-calls': 'tool_use',
  refusal: 'refusal',
};

class AnswerCounts {
  readonly #options: AnswerOptions;
  #characters = 0;
  #usage: AnswerUsage | undefined;

  constructor(options: AnswerOptions) {
    this.#options = options;
  }

  see(event: AnswerEvent): void {
    if (event.type === 'usage') this.#usage = event.usage;
    else if ('text' in event) this.#characters += event.text.length;
  }

  usage(): unknown {
    const { promptTokensEstimate, showCacheHits } = this.#options;
    const given = this.#usage;
    const cached = showCacheHits ? (given?.cachedTokens ?? 0) : 0;
    return {
      // Excludes those from the cache.
      input_tokens: (given?.inputTokens ?? promptTokensEstimate) - cached,
      cache_creation_input_tokens: 0,
      cache_read_input_tokens: cached,
      output_tokens: given?.outputTokens ?? estimatedTokens(this.#characters),
    };
  }
}

function messageOf({ id, model }: AnswerOptions, more: object): object {
  return {
    id: `msg_${id}`,
    type: 'message',
    role: 'assistant',
    model,
    content: [],
    stop_reason: null,
    stop_sequence: null,
    ...more,
  };
}

export class AnthropicStreamWriter implements AnswerWriter {
  readonly #options: AnswerOptions;
  readonly #counts: AnswerCounts;
  #open: 'text' | 'thinking' | 'tool' | undefined;
  #index = -1;
  done = false;

  constructor(options: AnswerOptions) {
    this.#options = options;
    this.#counts = new AnswerCounts(options);
  }

  write(event: AnswerEvent): string {
    this.#counts.see(event);
    switch (event.type) {
      case 'start': {
        const message = messageOf(this.#options, { usage: this.#counts.usage() });
        return sse('message_start', { message });
      }
      case 'text':
        return this.#begin('text', { type: 'text', text: '' }) + this.#delta({ type: 'text_delta', text: event.text });
      case 'reasoning':
        if (!this.#options.context.reasoning) return '';
        return (
          this.#begin('thinking', { type: 'thinking', thinking: '', signature: '' }) +
          this.#delta({ type: 'thinking_delta', thinking: event.text })
        );
      case 'tool-start':
        return this.#begin('tool', { type: 'tool_use', id: event.id, name: event.name, input: {} });
      case 'tool-arguments':
        return this.#delta({ type: 'input_json_delta', partial_json: event.text });
      case 'tool-end':
        return this.#end();
      case 'stop': {
        this.done = true;
        const delta = { stop_reason: STOP_REASONS[event.reason], stop_sequence: event.sequence };
        const last = sse('message_delta', { delta, usage: this.#counts.usage() });
        return this.#end() + last + sse('message_stop', {});
      }
      default:
        return '';
    }
  }

  #begin(kind: 'text' | 'thinking' | 'tool', block: object): string {
    if (kind === this.#open && kind !== 'tool') return '';
    const end = this.#end();
    this.#open = kind;
    this.#index += 1;
    return end + sse('content_block_start', { index: this.#index, content_block: block });
  }

  #delta(delta: object): string {
    return sse('content_block_delta', { index: this.#index, delta });
  }

  #end(): string {
    if (this.#open === undefined) return '';
    const signature = this.#open === 'thinking' ? this.#delta({ type: 'signature_delta', signature: UNSIGNED }) : '';
    this.#open = undefined;
    return signature + sse('content_block_stop', { index: this.#index });
  }
}

type Block =
  | { readonly type: 'text'; text: string }
  | { readonly type: 'thinking'; thinking: string; readonly signature: string }
  | { readonly type: 'tool_use'; readonly id: string; readonly name: string; input: unknown };

export class AnthropicMessageWriter implements AnswerWriter {
  readonly #options: AnswerOptions;
  readonly #counts: AnswerCounts;
  readonly #content: Block[] = [];
  #arguments = '';
  done = false;

  constructor(options: AnswerOptions) {
    this.#options = options;
    this.#counts = new AnswerCounts(options);
  }

  write(event: AnswerEvent): string {
    this.#counts.see(event);
    const last = this.#content.at(-1);
    switch (event.type) {
      case 'text':
        if (last?.type === 'text') last.text += event.text;
        else this.#content.push({ type: 'text', text: event.text });
        return '';
      case 'reasoning':
        if (!this.#options.context.reasoning) return '';
        if (last?.type === 'thinking') last.thinking += event.text;
        else this.#content.push({ type: 'thinking', thinking: event.text, signature: UNSIGNED });
        return '';
      case 'tool-start':
        this.#arguments = '';
        this.#content.push({ type: 'tool_use', id: event.id, name: event.name, input: {} });
        return '';
      case 'tool-arguments':
        this.#arguments += event.text;
        return '';
      case 'tool-end':
        assert(last?.type === 'tool_use', 'a call was begun');
        // A call that was cut off keeps only its name; the stop reason says so.
        last.input = parseObject(this.#arguments) ?? {};
        return '';
      case 'stop':
        this.done = true;
        return JSON.stringify(
          messageOf(this.#options, {
            content: this.#content,
            stop_reason: STOP_REASONS[event.reason],
            stop_sequence: event.sequence,
            usage: this.#counts.usage(),
          }),
        );
      default:
        return '';
    }
  }
}

function sse(type: string, more: object): string {
  return `event: ${type}\ndata: ${JSON.stringify({ type, ...more })}\n\n`;
}
