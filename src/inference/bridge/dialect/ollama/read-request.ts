/** Reads checked requests of Ollama's API into a conversation. Pure. */

import type { Checked } from '../../../../base/http/refusal.ts';
import { isJsonObject, type JsonObject } from '../../json-body.ts';
import type { ConversationRequest, ImagePart, Message, Part, TextPart, Tool, ToolCallPart } from '../model.ts';
import {
  asUserText,
  base64,
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
  text,
} from '../read-values.ts';

const OPEN_CALLS_MAX = 1_000;
const EFFORTS: ReadonlySet<unknown> = new Set(['low', 'medium', 'high']);

/** Image types by their first bytes in base64, since requests do not name the type. */
const IMAGE_STARTS: readonly (readonly [start: string, mediaType: string])[] = [
  ['iVBORw0KGgo', 'image/png'],
  ['/9j/', 'image/jpeg'],
  ['R0lGOD', 'image/gif'],
  ['UklGR', 'image/webp'],
];

export const readChat = (body: JsonObject): Checked<ConversationRequest> =>
  checkedRead(() => {
    const given = optionalList(body['messages'], 'messages');
    return { ...readCommon(body), ...readMessages(given), tools: optionalList(body['tools'], 'tools').map(readTool) };
  });

export const readGenerate = (body: JsonObject): Checked<ConversationRequest> =>
  checkedRead(() => {
    refuseOwnTemplates(body);
    const prompt = optionalText(body['prompt'], 'prompt') ?? '';
    const parts = [...readText(prompt), ...readImages(body['images'], 'images')];
    return {
      ...readCommon(body),
      system: optionalText(body['system'], 'system') ?? '',
      messages: [{ role: 'user', parts }],
      tools: [],
    };
  });

export const readInputs = (body: JsonObject, field: 'input' | 'prompt'): Checked<string[]> =>
  checkedRead(() => {
    const value = body[field] ?? '';
    if (typeof value === 'string') return value === '' ? [] : [value];
    if (field === 'prompt') throw new Fault(field, 'must be a string');
    return list(value, field).map((one, i) => text(one, `${field}.${i}`));
  });

/** Refuses templates and tokens: no upstream can use them, since it has the model's own template. */
function refuseOwnTemplates(body: JsonObject): void {
  const refuse = (field: string, why: string): never => {
    throw new Fault(field, `is refused here: ${why}`, 'field_refused');
  };
  if (optionalText(body['template'], 'template')) {
    refuse('template', 'the model server has the template of the model; use "system"');
  }
  if (optionalList(body['context'], 'context').length > 0) {
    refuse('context', 'the model server takes no tokens; send the conversation to /api/chat');
  }
  if (optionalFlag(body['raw'], 'raw')) {
    refuse('raw', 'the model server applies its template; use /v1/completions');
  }
  if (optionalText(body['suffix'], 'suffix')) {
    refuse('suffix', 'chat completions have no such field; use /v1/completions');
  }
}

function readCommon(body: JsonObject): Omit<ConversationRequest, 'system' | 'messages' | 'tools'> {
  const options = isGiven(body['options']) ? object(body['options'], 'options') : {};
  const number = (name: string): number | undefined => optionalNumber(options[name], `options.${name}`);
  const maxTokens = optionalLimit(options['num_predict'], 'options.num_predict', -2);
  const seed = number('seed');
  return {
    model: optionalText(body['model'], 'model'),
    stream: optionalFlag(body['stream'], 'stream') ?? true,
    toolChoice: undefined,
    parallelToolCalls: true,
    // -1 and -2 mean no limit.
    maxTokens: maxTokens === undefined || maxTokens < 1 ? undefined : maxTokens,
    temperature: number('temperature'),
    topP: number('top_p'),
    topK: number('top_k'),
    minP: number('min_p'),
    // -1 means any seed.
    seed: seed === undefined || seed < 0 ? undefined : Math.trunc(seed),
    presencePenalty: number('presence_penalty'),
    frequencyPenalty: number('frequency_penalty'),
    stop: optionalTexts(options['stop'], 'options.stop'),
    format: readFormat(body['format']),
    // Schemas for Ollama need not forbid additional properties.
    strictFormat: false,
    effort: readEffort(body['think']),
  };
}

function readFormat(value: unknown): JsonObject | 'json' | undefined {
  if (!isGiven(value) || value === '') return undefined;
  if (value === 'json' || isJsonObject(value)) return value;
  throw new Fault('format', 'must be "json" or a JSON Schema');
}

function readEffort(value: unknown): string | undefined {
  if (!isGiven(value) || typeof value === 'boolean') return undefined;
  if (EFFORTS.has(value)) return text(value, 'think');
  throw new Fault('think', 'must be true, false, "low", "medium" or "high"');
}

function readMessages(given: readonly unknown[]): Pick<ConversationRequest, 'system' | 'messages'> {
  const calls = new Calls();
  const system: string[] = [];
  const messages: Message[] = [];
  for (const [i, value] of given.entries()) {
    const path = `messages.${i}`;
    const message = object(value, path);
    const content = optionalText(message['content'], `${path}.content`) ?? '';
    const role = text(message['role'], `${path}.role`).toLowerCase();
    if (role === 'system' && messages.length === 0) {
      if (content !== '') system.push(content);
    } else messages.push(readMessage(message, { role, content, path, calls }));
  }
  return { system: system.join(GAP), messages: mergeNeighbors(messages) };
}

function readMessage(
  message: JsonObject,
  at: { readonly role: string; readonly content: string; readonly path: string; readonly calls: Calls },
): Message {
  const { role, content, path, calls } = at;
  switch (role) {
    case 'system':
      return { role: 'user', parts: readText(asUserText(content)) };
    case 'user':
      return { role, parts: withText(content, readImages(message['images'], `${path}.images`)) };
    case 'assistant': {
      const thinking = optionalText(message['thinking'], `${path}.thinking`) ?? '';
      const made = optionalList(message['tool_calls'], `${path}.tool_calls`).map((call, j) =>
        calls.read(call, `${path}.tool_calls.${j}`),
      );
      const reasoning: Part[] = thinking === '' ? [] : [{ type: 'reasoning', text: thinking }];
      return { role, parts: [...reasoning, ...withText(content, made)] };
    }
    case 'tool': {
      const images = readImages(message['images'], `${path}.images`);
      const result = { isError: false, content: [...readText(content), ...images] };
      return { role: 'user', parts: [{ type: 'tool-result', id: calls.answered(message, path), ...result }] };
    }
    default:
      throw new Fault(`${path}.role`, 'must be "system", "user", "assistant" or "tool"');
  }
}

const readText = (value: string): TextPart[] => (value === '' ? [] : [{ type: 'text', text: value }]);

/** A message has a text part, even if it is empty. */
const withText = (content: string, rest: readonly Part[]): Part[] =>
  content === '' && rest.length > 0 ? [...rest] : [{ type: 'text', text: content }, ...rest];

function readImages(value: unknown, path: string): ImagePart[] {
  return optionalList(value, path).map((one, i) => {
    const data = base64(one, `${path}.${i}`);
    const [, mediaType] = IMAGE_STARTS.find(([start]) => data.startsWith(start)) ?? [];
    if (mediaType === undefined) throw new Fault(`${path}.${i}`, 'is no PNG, JPEG, GIF or WebP');
    return { type: 'image', mediaType, data };
  });
}

/**
 * Assigns the call ids that chat completions need. Clients of Ollama send none, or only the tool's name with a result.
 */
class Calls {
  readonly #open: { readonly id: string; readonly given: string; readonly name: string }[] = [];
  readonly #ids = new Set<string>();

  read(value: unknown, path: string): ToolCallPart {
    const call = object(value, path);
    const { name, arguments: input } = object(call['function'], `${path}.function`);
    const given = optionalText(call['id'], `${path}.id`) ?? '';
    let id = given;
    for (let i = this.#ids.size; id === '' || this.#ids.has(id); i += 1) id = `call_${i}`;
    this.#ids.add(id);
    const part: ToolCallPart = {
      type: 'tool-call',
      id,
      name: text(name, `${path}.function.name`),
      input: isGiven(input) ? object(input, `${path}.function.arguments`) : {},
    };
    this.#open.push({ id, given, name: part.name });
    if (this.#open.length > OPEN_CALLS_MAX) throw new Fault(path, 'too many calls have no answer');
    return part;
  }

  /** Id of the call that a tool message answers: found by its id, else by its name, else the oldest. */
  answered(message: JsonObject, path: string): string {
    const id = optionalText(message['tool_call_id'], `${path}.tool_call_id`) ?? '';
    const name = optionalText(message['tool_name'] ?? message['name'], `${path}.tool_name`) ?? '';
    const byId = id === '' ? -1 : this.#open.findIndex((call) => call.given === id);
    const byName = name === '' ? -1 : this.#open.findIndex((call) => call.name === name);
    const at = [byId, byName, 0].find((index) => index >= 0) ?? 0;
    const [call] = this.#open.splice(at, 1);
    if (call === undefined) throw new Fault(path, 'answers no tool call of an earlier message');
    return call.id;
  }
}

/** Go clients write null for no properties, which is not valid JSON Schema. */
function readSchema(value: unknown, path: string): JsonObject {
  const schema = isGiven(value) ? object(value, path) : { type: 'object', properties: null };
  return schema['properties'] === null ? { ...schema, properties: {} } : schema;
}

function readTool(value: unknown, i: number): Tool {
  const path = `tools.${i}.function`;
  const tool = object(value, `tools.${i}`);
  const { name, description, parameters, strict } = object(tool['function'], path);
  return {
    name: text(name, `${path}.name`),
    description: optionalText(description, `${path}.description`),
    schema: readSchema(parameters, `${path}.parameters`),
    strict: optionalFlag(strict, `${path}.strict`),
  };
}
