/**
 * Writes an answer in the form of OpenAI's Responses API: as a stream of semantic events, or as one response. Performs
 * no I/O.
 */

import type { Refusal } from '../../../../base/http/refusal.ts';
import { MIB } from '../../../../base/units.ts';
import { BridgeError } from '../../errors.ts';
import { type JsonObject, parseObject } from '../../json-body.ts';
import { estimatedTokens } from '../../token-estimate.ts';
import type { AnswerOptions, AnswerWriter } from '../dialect.ts';
import type { AnswerEvent, AnswerUsage, ResponsesContext, StopReason, ToolForm } from '../model.ts';
import { CUSTOM_INPUT } from './read-tools.ts';

/**
 * Placeholder for OpenAI's encrypted reasoning. Some clients send reasoning back only if this is present; the bridge
 * ignores it, since the text is sent too.
 */
export const UNENCRYPTED = 'neurovisor';

/**
 * Limit of the whole answer; more is `upstream_protocol`. Applies to streams too, since the last event repeats the
 * answer.
 */
export const ANSWER_CHARACTERS_MAX = 8 * MIB;

const NO_CONTEXT: ResponsesContext = { tools: [], repeated: {}, summary: false, encrypted: false };

type Open = OpenText<'text'> | OpenText<'reasoning'> | OpenCall;

interface OpenText<Kind> {
  readonly kind: Kind;
  readonly id: string;
  text: string;
}

interface OpenCall extends OpenText<'call'> {
  readonly form: ToolForm;
  readonly callId: string;
}

type Status = 'in_progress' | 'completed' | 'incomplete' | 'failed';

const INCOMPLETE: Readonly<Partial<Record<StopReason, string>>> = {
  length: 'max_output_tokens',
  refusal: 'content_filter',
};

export class ResponsesWriter implements AnswerWriter {
  readonly #options: AnswerOptions;
  readonly #createdAt: number;
  readonly #context: ResponsesContext;
  readonly #forms: ReadonlyMap<string, ToolForm>;
  readonly #output: { readonly id: string; readonly item: JsonObject }[] = [];
  #open: Open | undefined;
  #sequence = 0;
  #characters = 0;
  #usage: AnswerUsage | undefined;
  done = false;

  constructor(options: AnswerOptions) {
    this.#options = options;
    this.#createdAt = Math.floor(options.clock.wall() / 1000);
    this.#context = options.context.responses ?? NO_CONTEXT;
    this.#forms = new Map(this.#context.tools.map((form) => [form.upstreamName, form]));
  }

  /** @throws BridgeError `upstream_protocol` */
  write(event: AnswerEvent): string {
    switch (event.type) {
      case 'start': {
        const response = this.#response('in_progress');
        return this.#sse('response.created', { response }) + this.#sse('response.in_progress', { response });
      }
      case 'text':
        return this.#begin('text') + this.#add(event.text);
      case 'reasoning':
        return this.#begin('reasoning') + this.#add(event.text);
      case 'tool-start':
        return this.#beginCall(event.id, event.name);
      case 'tool-arguments':
        return this.#add(event.text);
      case 'tool-end':
        return this.#end('completed');
      case 'usage':
        this.#usage = event.usage;
        return '';
      case 'stop':
        return this.#stop(event.reason);
      default:
        return '';
    }
  }

  fail(refusal: Refusal): string {
    const response = { ...this.#response('failed'), error: responseError(refusal) };
    return this.#sse('error', errorMembers(refusal)) + this.#sse('response.failed', { response });
  }

  #begin(kind: 'text' | 'reasoning'): string {
    if (this.#open?.kind === kind) return '';
    const end = this.#end('completed');
    const id = `${kind === 'text' ? 'msg' : 'rs'}_${this.#options.id}_${this.#output.length}`;
    const open: Open = { kind, id, text: '' };
    this.#open = open;
    const item = this.#item(open, 'in_progress', false);
    const added = this.#sse('response.output_item.added', { output_index: this.#index, item });
    return end + added + this.#part('added', open);
  }

  #beginCall(callId: string, name: string): string {
    const end = this.#end('completed');
    const form = this.#forms.get(name) ?? { type: 'function', upstreamName: name, name };
    const prefix = form.type === 'function' ? 'fc' : form.type === 'custom' ? 'ctc' : 'lsh';
    const id = `${prefix}_${this.#options.id}_${this.#output.length}`;
    this.#open = { kind: 'call', id, form, callId, text: '' };
    const item = this.#item(this.#open, 'in_progress', false);
    return end + this.#sse('response.output_item.added', { output_index: this.#index, item });
  }

  #add(text: string): string {
    const open = this.#open;
    this.#characters += text.length;
    if (this.#characters > ANSWER_CHARACTERS_MAX) {
      throw new BridgeError('upstream_protocol', 'the answer is too long');
    }
    if (open === undefined) return '';
    open.text += text;
    const at = { item_id: open.id, output_index: this.#index };
    if (open.kind === 'text') {
      const more = { content_index: 0, delta: text, logprobs: [] };
      return this.#sse('response.output_text.delta', { ...at, ...more });
    }
    if (open.kind === 'reasoning') {
      const [name, place] = this.#reasoningForm;
      return this.#sse(`response.${name}.delta`, { ...at, ...place, delta: text });
    }
    // The input of other tools is inside the arguments.
    if (open.form.type !== 'function') return '';
    return this.#sse('response.function_call_arguments.delta', { ...at, delta: text });
  }

  #end(status: 'completed' | 'incomplete'): string {
    const open = this.#open;
    if (open === undefined) return '';
    this.#open = undefined;
    const isCut = open.kind === 'call' && parseObject(open.text) === undefined;
    const item = this.#item(open, isCut ? 'incomplete' : status, true);
    const parts = this.#whole(open) + this.#part('done', open);
    const done = this.#sse('response.output_item.done', { output_index: this.#index, item });
    this.#output.push({ id: open.id, item });
    return parts + done;
  }

  #whole(open: Open): string {
    const { id, text } = open;
    const at = { item_id: id, output_index: this.#index };
    if (open.kind === 'text') {
      return this.#sse('response.output_text.done', { ...at, content_index: 0, text, logprobs: [] });
    }
    if (open.kind === 'reasoning') {
      const [name, place] = this.#reasoningForm;
      return this.#sse(`response.${name}.done`, { ...at, ...place, text });
    }
    const { type, name } = open.form;
    if (type === 'function') {
      return this.#sse('response.function_call_arguments.done', { ...at, name, arguments: text });
    }
    if (type !== 'custom') return '';
    const input = customInput(text);
    return (
      this.#sse('response.custom_tool_call_input.delta', { ...at, delta: input }) +
      this.#sse('response.custom_tool_call_input.done', { ...at, input })
    );
  }

  #part(what: 'added' | 'done', open: Open): string {
    if (open.kind === 'call') return '';
    const at = { item_id: open.id, output_index: this.#index };
    const text = what === 'added' ? '' : open.text;
    if (open.kind === 'text') {
      const part = textPart(text);
      return this.#sse(`response.content_part.${what}`, { ...at, content_index: 0, part });
    }
    const [, place, type] = this.#reasoningForm;
    const group = this.#context.summary ? 'reasoning_summary_part' : 'content_part';
    return this.#sse(`response.${group}.${what}`, { ...at, ...place, part: { type, text } });
  }

  #item(open: Open, status: Status, isWhole: boolean): JsonObject {
    const { id, text } = open;
    switch (open.kind) {
      case 'text': {
        const content = isWhole ? [textPart(text)] : [];
        return { id, type: 'message', status, role: 'assistant', content };
      }
      case 'reasoning': {
        const part = isWhole ? [{ type: this.#reasoningForm[2], text }] : [];
        const { summary, encrypted } = this.#context;
        return {
          id,
          type: 'reasoning',
          summary: summary ? part : [],
          ...(summary ? {} : { content: part }),
          ...(encrypted ? { encrypted_content: UNENCRYPTED } : {}),
        };
      }
      case 'call':
        return callItem(open, status, isWhole ? text : '');
    }
  }

  get #reasoningForm(): readonly [string, JsonObject, string] {
    return this.#context.summary
      ? ['reasoning_summary_text', { summary_index: 0 }, 'summary_text']
      : ['reasoning_text', { content_index: 0 }, 'reasoning_text'];
  }

  #stop(reason: StopReason): string {
    this.done = true;
    const why = INCOMPLETE[reason];
    const status = why === undefined ? 'completed' : 'incomplete';
    const end = this.#end(status);
    const response = {
      ...this.#response(status),
      incomplete_details: why === undefined ? null : { reason: why },
      usage: this.#tokens(),
    };
    const { keep, stream } = this.#options;
    const json = JSON.stringify(response);
    keep?.(
      responseId(this.#options),
      json,
      this.#output.map(({ id, item }) => ({ id, json: JSON.stringify(item) })),
    );
    return stream ? end + this.#sse(`response.${status}`, { response }) : json;
  }

  #response(status: Status): JsonObject {
    const { model, keep } = this.#options;
    return {
      ...this.#context.repeated,
      id: responseId(this.#options),
      object: 'response',
      created_at: this.#createdAt,
      status,
      error: null,
      incomplete_details: null,
      model,
      output: this.#output.map(({ item }) => item),
      store: keep !== undefined,
      usage: null,
    };
  }

  #tokens(): JsonObject {
    const { promptTokensEstimate, showCacheHits } = this.#options;
    const { inputTokens, outputTokens, cachedTokens, reasoningTokens } = this.#usage ?? {
      inputTokens: promptTokensEstimate,
      outputTokens: estimatedTokens(this.#characters),
      cachedTokens: 0,
      reasoningTokens: 0,
    };
    return {
      input_tokens: inputTokens,
      input_tokens_details: { cached_tokens: showCacheHits ? cachedTokens : 0, cache_write_tokens: 0 },
      output_tokens: outputTokens,
      output_tokens_details: { reasoning_tokens: reasoningTokens ?? 0 },
      total_tokens: inputTokens + outputTokens,
    };
  }

  /** Index of the open item, or else of the next one. */
  get #index(): number {
    return this.#output.length;
  }

  #sse(type: string, more: object): string {
    if (!this.#options.stream) return '';
    const text = sseEvent(type, more, this.#sequence);
    this.#sequence += 1;
    return text;
  }
}

const responseId = ({ id }: AnswerOptions): string => `resp_${id}`;

function textPart(text: string): JsonObject {
  return { type: 'output_text', text, annotations: [], logprobs: [] };
}

function callItem({ id, form, callId }: OpenCall, status: Status, text: string): JsonObject {
  const { type, name, namespace } = form;
  const named = { call_id: callId, name, ...(namespace === undefined ? {} : { namespace }) };
  if (type === 'function') return { id, type: 'function_call', status, ...named, arguments: text };
  if (type === 'custom') {
    return { id, type: 'custom_tool_call', status, ...named, input: customInput(text) };
  }
  return { id, type: 'local_shell_call', status, call_id: callId, action: shellAction(text) };
}

/** The text inside the arguments; the arguments themselves if the model did not follow the schema. */
function customInput(text: string): string {
  const input = parseObject(text)?.[CUSTOM_INPUT];
  return typeof input === 'string' ? input : text;
}

function shellAction(text: string): JsonObject {
  const { command, working_directory: directory, timeout_ms: timeout } = parseObject(text) ?? {};
  const words = Array.isArray(command) ? command.filter((word) => typeof word === 'string') : [];
  return {
    type: 'exec',
    command: typeof command === 'string' ? ['bash', '-lc', command] : words,
    env: {},
    timeout_ms: typeof timeout === 'number' ? timeout : null,
    user: null,
    working_directory: typeof directory === 'string' ? directory : null,
  };
}

function sseEvent(type: string, more: object, sequence: number): string {
  const data = JSON.stringify({ type, sequence_number: sequence, ...more });
  return `event: ${type}\ndata: ${data}\n\n`;
}

/** SDKs throw for a member `error`; the API's documentation names the other members. */
function errorMembers({ code, message, param: given, status }: Refusal): JsonObject {
  const param = given ?? null;
  return { code, message, param, error: { type: errorType(status), code, message, param } };
}

/** Codex decides by the code whether to retry. */
function responseError({ status, message }: Refusal): JsonObject {
  const isOwn = status < 500 && status >= 400 && status !== 408;
  const code = status === 429 ? 'rate_limit_exceeded' : isOwn ? 'invalid_prompt' : 'server_error';
  return { code, message };
}

export function errorType(status: number): string {
  if (status === 429) return 'rate_limit_error';
  return status >= 500 ? 'server_error' : 'invalid_request_error';
}

export function failureEvents(refusal: Refusal): string {
  const response = {
    id: 'resp_0',
    object: 'response',
    created_at: 0,
    status: 'failed',
    error: responseError(refusal),
    incomplete_details: null,
    output: [],
    usage: null,
  };
  return sseEvent('error', errorMembers(refusal), 0) + sseEvent('response.failed', { response }, 1);
}
