/** Answers of the OpenAI API: objects, stream chunks, errors. Pure. */
import { describeError } from '../../base/errors.ts';
import { type EngineError, HTTP_STATUS } from './errors.ts';
import type { ReplyEvent } from './reply.ts';

export type FinishReason = 'stop' | 'length' | 'tool_calls';

export interface Usage {
  readonly promptTokens: number;
  readonly completionTokens: number;
  readonly cachedTokens: number;
}

export interface AnswerHead {
  /** `chatcmpl-…` or `cmpl-…` */
  readonly id: string;
  /** Seconds since 1970. */
  readonly created: number;
  readonly model: string;
}

interface ToolCall {
  readonly id: string;
  readonly type: 'function';
  readonly function: { readonly name: string; arguments: string };
}

export function chatCompletion(
  head: AnswerHead,
  events: readonly ReplyEvent[],
  callId: string,
  finish: FinishReason,
  usage: Usage,
): object {
  let text = '';
  let call: ToolCall | undefined;
  for (const event of events) {
    if (event.kind === 'text') text += event.text;
    else if (event.kind === 'call') call = newCall(callId, event.name);
    else if (call !== undefined) call.function.arguments += event.text;
  }
  const message =
    call === undefined
      ? { role: 'assistant', content: text, refusal: null }
      : { role: 'assistant', content: null, refusal: null, tool_calls: [call] };
  return {
    ...head,
    object: 'chat.completion',
    choices: [{ index: 0, message, logprobs: null, finish_reason: finish }],
    usage: usageObject(usage),
  };
}

const newCall = (id: string, name: string): ToolCall => ({ id, type: 'function', function: { name, arguments: '' } });

export function chatDelta(event: ReplyEvent, callId: string): object {
  switch (event.kind) {
    case 'text':
      return { content: event.text };
    case 'call':
      return { tool_calls: [{ index: 0, ...newCall(callId, event.name) }] };
    case 'arguments':
      return { tool_calls: [{ index: 0, function: { arguments: event.text } }] };
  }
}

export function chatChunk(head: AnswerHead, delta: object, finish: FinishReason | null): object {
  return {
    ...head,
    object: 'chat.completion.chunk',
    choices: [{ index: 0, delta, logprobs: null, finish_reason: finish }],
  };
}

export interface CompletionChoice {
  readonly index: number;
  readonly text: string;
  readonly finish: FinishReason | null;
}

/** Also the shape of a stream chunk, which has one choice and no usage. */
export function completion(head: AnswerHead, choices: readonly CompletionChoice[], usage: Usage | null): object {
  return {
    ...head,
    object: 'text_completion',
    choices: choices.map(({ index, text, finish }) => ({ index, text, logprobs: null, finish_reason: finish })),
    ...(usage === null ? {} : { usage: usageObject(usage) }),
  };
}

export function usageChunk(head: AnswerHead, object: string, usage: Usage): object {
  return { ...head, object, choices: [], usage: usageObject(usage) };
}

export function usageObject(usage: Usage): object {
  return {
    prompt_tokens: usage.promptTokens,
    completion_tokens: usage.completionTokens,
    total_tokens: usage.promptTokens + usage.completionTokens,
    prompt_tokens_details: { cached_tokens: usage.cachedTokens },
  };
}

export function embeddingList(
  model: string,
  vectors: readonly Float32Array[],
  encoding: 'float' | 'base64',
  tokens: number,
): object {
  return {
    object: 'list',
    data: vectors.map((vector, index) => ({
      object: 'embedding',
      index,
      embedding: encoding === 'float' ? [...vector] : base64(vector),
    })),
    model,
    usage: { prompt_tokens: tokens, total_tokens: tokens },
  };
}

/** Encodes little-endian 32-bit floats, the memory layout of all Node platforms. */
function base64(vector: Float32Array): string {
  return Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength).toString('base64');
}

/** Truncates the vector and normalizes it again, as OpenAI does for `dimensions`. */
export function shorten(vector: Float32Array, dimensions: number): Float32Array {
  const head = vector.slice(0, dimensions);
  const length = Math.hypot(...head);
  return length === 0 ? head : head.map((value) => value / length);
}

export function modelObject(id: string, created: number, contextTokens: number | null): object {
  return {
    id,
    object: 'model',
    created,
    owned_by: 'neurovisor',
    ...(contextTokens === null ? {} : { context_length: contextTokens }),
  };
}

/** An error in OpenAI's error form; internal causes stay in the log. */
export function errorBody(error: EngineError): { status: number; body: object } {
  const status = HTTP_STATUS[error.code] ?? 500;
  const message = status === 500 ? error.message : describeError(error);
  const type = status < 500 ? 'invalid_request_error' : 'server_error';
  return { status, body: { error: { message, type, param: error.param, code: error.code } } };
}
