/** Reads the answers of OpenAI's API, as servers write them: chat completions, completions, transcripts. Pure. */
import { isJsonObject, type JsonObject, parseObject } from '../../json-body.ts';
import type {
  AnswerDelta,
  AnswerGrammar,
  AnswerPiece,
  CallDelta,
  DeltaPart,
  Finish,
  TextDelta,
  UsageReport,
} from '../answer-piece.ts';
import { isText, textIn, tokenCount } from '../read-answer-values.ts';

const END: AnswerPiece = { deltas: [], isEnd: true };
const isEnd = (data: string): boolean => data.trim() === '[DONE]';

/** Chat completions, streamed or whole. */
export const openaiGrammar: AnswerGrammar = {
  event: (data) => {
    if (isEnd(data)) return END;
    const chunk = parseObject(data);
    return chunk && chatPiece(chunk);
  },
  document: chatPiece,
};

/** The piece in an event of any stream that passes: also text from audio. Undefined if the data is no JSON object. */
export function streamPiece(data: string): AnswerPiece | undefined {
  if (isEnd(data)) return END;
  const event = parseObject(data);
  if (event === undefined) return undefined;
  const piece = chatPiece(event);
  const { type, delta } = event;
  const isDone = type === 'transcript.text.done';
  if (!isDone && type !== 'transcript.text.delta') return piece;
  const last: AnswerDelta = isDone
    ? { choice: 0, parts: [], finish: 'end' }
    : { choice: 0, parts: textIn('text', delta) };
  return { ...piece, deltas: [...piece.deltas, last] };
}

/** @param answer a chunk of a stream, or a whole answer */
function chatPiece({ choices, usage, error }: JsonObject): AnswerPiece {
  const all = Array.isArray(choices) ? choices : undefined;
  const hasUsage = isJsonObject(usage);
  return {
    deltas: all === undefined ? [] : all.filter(isJsonObject).map(deltaOf),
    ...(hasUsage ? { usage: usageReport(usage), isUsageChunk: all?.length === 0 } : {}),
    ...(error === undefined || error === null ? {} : { error }),
  };
}

/** Transcripts use the field names of OpenAI's newer APIs. */
export function usageReport(usage: JsonObject): UsageReport {
  return {
    input: tokenCount(usage['prompt_tokens'] ?? usage['input_tokens']),
    cached: tokenCount(memberOf(usage['prompt_tokens_details'], 'cached_tokens')),
    output: tokenCount(usage['completion_tokens'] ?? usage['output_tokens']),
    reasoning: tokenCount(memberOf(usage['completion_tokens_details'], 'reasoning_tokens')),
  };
}

const memberOf = (value: unknown, name: string): unknown => (isJsonObject(value) ? value[name] : undefined);

/** Finish reasons of servers. */
const FINISHES: ReadonlyMap<string, Finish> = new Map([
  ['length', 'length'],
  ['max_tokens', 'length'],
  ['content_filter', 'refusal'],
  ['error', 'failed'],
  ['abort', 'failed'],
  ['aborted', 'failed'],
  ['cancelled', 'failed'],
]);

function deltaOf(choice: JsonObject): AnswerDelta {
  const { index, text, finish_reason: finish } = choice;
  const delta = choice['delta'] ?? choice['message'];
  return {
    choice: numberOf(index),
    // Clients of chat completions do not read `text`.
    parts: isJsonObject(delta) ? [...partsOf(delta), ...textIn('other', text)] : textIn('text', text),
    // Any other reason ends the answer as usual.
    ...(isText(finish) ? { finish: FINISHES.get(finish) ?? 'end' } : {}),
    // vLLM; SGLang
    sequence: choice['stop_reason'] ?? choice['matched_stop'],
  };
}

/** A choice without a number is the first; one with a wrong number is none that was requested. */
const numberOf = (index: unknown): number => (typeof index === 'number' ? index : (index ?? null) === null ? 0 : -1);

function partsOf(delta: JsonObject): readonly DeltaPart[] {
  const { content, refusal, tool_calls: calls, function_call: call } = delta;
  const parts: DeltaPart[] = [];
  const reasoning = [delta['reasoning_content'], delta['reasoning']].find(isText);
  if (reasoning !== undefined) parts.push({ type: 'reasoning', text: reasoning });
  if (isText(content)) parts.push({ type: 'text', text: content });
  else if (Array.isArray(content)) for (const part of content) parts.push(...contentPart(part));
  if (isText(refusal)) parts.push({ type: 'refusal', text: refusal });
  if (Array.isArray(calls)) for (const one of calls) if (isJsonObject(one)) parts.push(callOf(one));
  if (isJsonObject(call)) parts.push(callOf({ index: 0, function: call }));
  return parts;
}

/** Mistral sends lists of parts. */
function contentPart(part: unknown): readonly TextDelta[] {
  if (!isJsonObject(part)) return [];
  const { type, text, thinking } = part;
  if (type === 'text') return textIn('text', text);
  if (type !== 'thinking' || !Array.isArray(thinking)) return [];
  return thinking.filter(isJsonObject).flatMap((inner) => textIn('reasoning', inner['text']));
}

function callOf(call: JsonObject): CallDelta {
  const called = call['function'] ?? call['custom'];
  const fn = isJsonObject(called) ? called : {};
  const { name, arguments: input = fn['input'] } = fn;
  const { index, id } = call;
  return {
    type: 'call',
    index: Number.isSafeInteger(index) ? Number(index) : undefined,
    id: isText(id) ? id : undefined,
    name: isText(name) ? name : undefined,
    input: isJsonObject(input) || isText(input) ? input : '',
  };
}
