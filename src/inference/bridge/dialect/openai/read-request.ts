/**
 * Reads a checked chat completions request into a conversation, for upstreams of another API with fewer features.
 * Refuses what would change the answer and is missing there; drops hints. Pure.
 */

import type { Checked } from '../../../../base/http/refusal.ts';
import { isJsonObject, type JsonObject, parseObject } from '../../json-body.ts';
import { readImageUrl } from '../image-url.ts';
import type { ConversationRequest, ImagePart, Message, Part, TextPart, Tool, ToolChoice } from '../model.ts';
import {
  asUserText,
  checkedRead,
  Fault,
  GAP,
  isGiven,
  list,
  mergeNeighbors,
  object,
  optionalFlag,
  optionalLimit,
  optionalList,
  optionalNumber,
  optionalText,
  optionalTexts,
  shown,
  text,
} from '../read-values.ts';

export function readChatRequest(body: JsonObject): Checked<ConversationRequest> {
  return checkedRead(() => read(body));
}

function read(body: JsonObject): ConversationRequest {
  refuseWhatIsMissing(body);
  const given = list(body['messages'], 'messages').map((message, i) => object(message, `messages.${i}`));
  const start = given.findIndex((message) => !isInstruction(message));
  const first = start < 0 ? given.length : start;
  const system = given.slice(0, first).map(({ content }, i) => textOf(content, `messages.${i}`));
  const messages = given.slice(first).map((message, i) => readMessage(message, `messages.${first + i}`));
  if (messages.length === 0) throw new Fault('messages', 'at least one message of a user is required');
  const limit = body['max_completion_tokens'] ?? body['max_tokens'] ?? body['n_predict'];
  return {
    model: optionalText(body['model'], 'model'),
    stream: optionalFlag(body['stream'], 'stream') ?? false,
    system: system.filter((one) => one !== '').join(GAP),
    messages: mergeNeighbors(messages),
    tools: optionalList(body['tools'], 'tools').map(readTool),
    toolChoice: readChoice(body['tool_choice']),
    parallelToolCalls: optionalFlag(body['parallel_tool_calls'], 'parallel_tool_calls') !== false,
    maxTokens: optionalLimit(limit, 'max_tokens'),
    temperature: optionalNumber(body['temperature'], 'temperature'),
    topP: optionalNumber(body['top_p'], 'top_p'),
    topK: optionalNumber(body['top_k'], 'top_k'),
    stop: optionalTexts(body['stop'], 'stop'),
    format: readFormat(body['response_format']),
  };
}

/** Fields that change the answer, with the values that change nothing. */
const MISSING: Readonly<Record<string, readonly unknown[]>> = {
  n: [1],
  best_of: [1],
  logprobs: [false],
  echo: [false],
  audio: [],
  functions: [],
  function_call: [],
  continue_final_message: [false],
};

function refuseWhatIsMissing(body: JsonObject): void {
  for (const [name, harmless] of Object.entries(MISSING)) {
    if (isGiven(body[name]) && !harmless.includes(body[name])) throw missing(name);
  }
  for (const name of Object.keys(body)) {
    const isGrammar = /^guided_(?!whitespace)|^(?:structured_outputs|regex|ebnf|grammar|json_schema)$/.test(name);
    if (isGrammar && isGiven(body[name])) throw missing(name);
  }
}

const missing = (path: string): Fault =>
  new Fault(path, "the model is served by Anthropic's API, which has no such field", 'field_refused');

const isInstruction = ({ role }: JsonObject): boolean => role === 'system' || role === 'developer';

function readMessage(message: JsonObject, path: string): Message {
  const { role, content } = message;
  if (isInstruction(message)) {
    return { role: 'user', parts: [{ type: 'text', text: asUserText(textOf(content, path)) }] };
  }
  if (role === 'user') return { role, parts: readContent(content, `${path}.content`) };
  if (role === 'tool') {
    const id = text(message['tool_call_id'], `${path}.tool_call_id`);
    const parts = readContent(content, `${path}.content`);
    return { role: 'user', parts: [{ type: 'tool-result', id, isError: false, content: parts }] };
  }
  if (role !== 'assistant') throw new Fault(`${path}.role`, `the role ${shown(role)} is refused here`);
  return { role, parts: readAssistant(message, path) };
}

function readAssistant(message: JsonObject, path: string): readonly Part[] {
  const { content, refusal, reasoning_content: thought, reasoning, tool_calls: calls } = message;
  if (isGiven(message['function_call'])) throw missing(`${path}.function_call`);
  const said = [thought ?? reasoning].filter((one) => typeof one === 'string');
  return [
    ...said.map((one): Part => ({ type: 'reasoning', text: one })),
    ...(isGiven(content) ? readContent(content, `${path}.content`) : []),
    ...(typeof refusal === 'string' ? [{ type: 'text', text: refusal } as const] : []),
    ...optionalList(calls, `${path}.tool_calls`).map((call, i) => readCall(call, `${path}.tool_calls.${i}`)),
  ];
}

function readCall(value: unknown, path: string): Part {
  const { id, function: fn } = object(value, path);
  const { name, arguments: json } = object(fn, `${path}.function`);
  const written = optionalText(json, `${path}.function.arguments`) ?? '';
  const input = written.trim() === '' ? {} : parseObject(written);
  if (input === undefined) throw new Fault(`${path}.function.arguments`, 'is no JSON object');
  return { type: 'tool-call', id: text(id, `${path}.id`), name: text(name, `${path}.function.name`), input };
}

function readContent(content: unknown, path: string): readonly (TextPart | ImagePart)[] {
  if (!isGiven(content) || content === '') return [];
  if (typeof content === 'string') return [{ type: 'text', text: content }];
  return list(content, path).map((value, i) => readPart(value, `${path}.${i}`));
}

function readPart(value: unknown, path: string): TextPart | ImagePart {
  if (typeof value === 'string') return { type: 'text', text: value };
  const part = object(value, path);
  const { type, image_url: image } = part;
  if (type === 'text') return { type, text: text(part['text'], `${path}.text`) };
  if (type === 'refusal') return { type: 'text', text: text(part['refusal'], `${path}.refusal`) };
  if (type === 'image_url') return readImageUrl(isJsonObject(image) ? image['url'] : image, `${path}.image_url`);
  const why = `the part ${shown(type)} is refused: the model is served by Anthropic's API`;
  throw new Fault(`${path}.type`, why, 'field_refused');
}

function textOf(content: unknown, path: string): string {
  const parts = readContent(content, `${path}.content`);
  return parts
    .map((part, i) => {
      if (part.type === 'text') return part.text;
      throw new Fault(`${path}.content.${i}`, 'must be a text here');
    })
    .join(GAP);
}

function readTool(value: unknown, i: number): Tool {
  const path = `tools.${i}`;
  const { type, function: fn } = object(value, path);
  if (isGiven(type) && type !== 'function') throw missing(`${path}.${String(type)}`);
  const { name, description, parameters, strict } = object(fn, `${path}.function`);
  return {
    name: text(name, `${path}.function.name`),
    description: optionalText(description, `${path}.function.description`),
    schema: isGiven(parameters) ? object(parameters, `${path}.function.parameters`) : {},
    strict: optionalFlag(strict, `${path}.function.strict`),
  };
}

function readChoice(value: unknown): ToolChoice | undefined {
  if (!isGiven(value)) return undefined;
  if (value === 'auto' || value === 'none') return { type: value };
  if (value === 'required') return { type: 'any' };
  const { type, function: fn } = object(value, 'tool_choice');
  if (type !== 'function') throw missing('tool_choice.type');
  return { type: 'tool', name: text(object(fn, 'tool_choice.function')['name'], 'tool_choice.function.name') };
}

function readFormat(value: unknown): JsonObject | 'json' | undefined {
  if (!isGiven(value)) return undefined;
  const { type, json_schema: wrapped } = object(value, 'response_format');
  if (type === 'text') return undefined;
  if (type === 'json_object') return 'json';
  if (type !== 'json_schema') throw missing('response_format.type');
  const path = 'response_format.json_schema';
  return object(object(wrapped, path)['schema'], `${path}.schema`);
}
