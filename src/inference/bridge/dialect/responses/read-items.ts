/** Reads items of the Responses API, as a client writes them or sends them back, into messages. Pure. */

import { type JsonObject, parseObject } from '../../json-body.ts';
import { readImageUrl } from '../image-url.ts';
import type { ImagePart, Message, Part, TextPart } from '../model.ts';
import {
  asUserText,
  Fault,
  GAP,
  isGiven,
  list,
  mergeNeighbors,
  object,
  optionalList,
  optionalText,
  shown,
  text,
} from '../read-values.ts';
import { CUSTOM_INPUT, LOCAL_SHELL, upstreamName } from './read-tools.ts';

export interface ReadItems {
  readonly system: readonly string[];
  readonly messages: readonly Message[];
}

export interface PlacedItem {
  readonly item: JsonObject;
  readonly path: string;
}

/** Refusal for items and for the route that ask OpenAI's servers to compact a conversation. */
export const NO_COMPACTION =
  'only OpenAI shortens conversations on its servers; let the client do it. Codex does, with a model provider ' +
  'of another name than OpenAI';

/** The items of `input`: a message gets its type, and a string becomes a message. */
export function placedItems(input: unknown): readonly PlacedItem[] {
  if (typeof input === 'string') return [{ item: messageItem('user', input), path: 'input' }];
  return list(input, 'input').map((one, i) => {
    const path = `input.${i}`;
    const item = object(one, path);
    const { type, role, content } = item;
    if (isReference(item)) return { item: { ...item, type: 'item_reference' }, path };
    const isMessage = type === 'message' || (!isGiven(type) && isGiven(role));
    if (!isMessage) return { item, path };
    const parts = typeof content === 'string' ? messageItem(String(role), content) : {};
    return { item: { ...item, type: 'message', ...parts }, path };
  });
}

export function isReference({ type, role, id }: JsonObject): boolean {
  return type === 'item_reference' || (!isGiven(type) && !isGiven(role) && isGiven(id));
}

function messageItem(role: string, said: string): JsonObject {
  const type = role === 'assistant' ? 'output_text' : 'input_text';
  const more = role === 'assistant' ? { annotations: [] } : {};
  return { type: 'message', role, content: [{ type, text: said, ...more }] };
}

export function readItems(items: readonly PlacedItem[]): ReadItems {
  const system: string[] = [];
  const messages: Message[] = [];
  for (const { item, path } of items) {
    const message = readItem(item, path);
    if (message === undefined) continue;
    if (message.role !== 'system') messages.push(message);
    else if (messages.length === 0) system.push(message.said);
    else {
      messages.push({ role: 'user', parts: [{ type: 'text', text: asUserText(message.said) }] });
    }
  }
  return { system, messages: mergeNeighbors(messages) };
}

type ReadItem = Message | { readonly role: 'system'; readonly said: string } | undefined;

function readItem(item: JsonObject, path: string): ReadItem {
  const { type } = item;
  switch (type) {
    case 'message':
      return readMessage(item, path);
    case 'reasoning':
      return readReasoning(item, path);
    case 'function_call':
      return readCall(item, path);
    case 'custom_tool_call':
      return call(item, path, { [CUSTOM_INPUT]: text(item['input'], `${path}.input`) });
    case 'local_shell_call':
      return readShellCall(item, path);
    case 'function_call_output':
    case 'custom_tool_call_output':
      return result(item['call_id'], `${path}.call_id`, item['output'], `${path}.output`);
    case 'local_shell_call_output':
      return result(item['call_id'] ?? item['id'], `${path}.id`, item['output'], `${path}.output`);
    case 'compaction_trigger':
    case 'compaction':
      throw new Fault(`${path}.type`, NO_COMPACTION, 'field_refused');
    default:
      throw new Fault(`${path}.type`, `the item ${shown(type)} is refused here`, 'field_refused');
  }
}

function readMessage({ role, content }: JsonObject, path: string): ReadItem {
  const parts = list(content, `${path}.content`).map((part, i) => {
    const at = `${path}.content.${i}`;
    return readPart(object(part, at), at);
  });
  if (role === 'user') return { role, parts };
  if (role !== 'system' && role !== 'developer' && role !== 'assistant') {
    const why = 'must be "user", "assistant", "system" or "developer"';
    throw new Fault(`${path}.role`, why);
  }
  const texts = parts.map((part, i) => {
    if (part.type === 'text') return part;
    throw new Fault(`${path}.content.${i}`, `an image can't be from the ${role}`);
  });
  if (role === 'assistant') return { role, parts: texts };
  return { role: 'system', said: texts.map((part) => part.text).join(GAP) };
}

function readPart(part: JsonObject, path: string): TextPart | ImagePart {
  const { type } = part;
  switch (type) {
    case 'input_text':
    case 'output_text':
    case 'text':
      return { type: 'text', text: text(part['text'], `${path}.text`) };
    case 'refusal':
      return { type: 'text', text: text(part['refusal'], `${path}.refusal`) };
    case 'input_image':
      return readImageUrl(part['image_url'], `${path}.image_url`);
    default:
      throw new Fault(`${path}.type`, `the part ${shown(type)} is refused here`, 'field_refused');
  }
}

/** Only OpenAI can read what is encrypted. */
function readReasoning(item: JsonObject, path: string): Message | undefined {
  const textsOf = (name: string): string[] =>
    optionalList(item[name], `${path}.${name}`).map((one, i) => {
      const at = `${path}.${name}.${i}`;
      return text(object(one, at)['text'], `${at}.text`);
    });
  const whole = textsOf('content');
  const said = (whole.length > 0 ? whole : textsOf('summary')).join(GAP);
  if (said === '') return undefined;
  return { role: 'assistant', parts: [{ type: 'reasoning', text: said }] };
}

function readCall(item: JsonObject, path: string): Message | undefined {
  const json = text(item['arguments'], `${path}.arguments`);
  const input = json.trim() === '' ? {} : parseObject(json);
  // A call that was cut off was never made.
  if (input === undefined && item['status'] === 'incomplete') return undefined;
  if (input === undefined) throw new Fault(`${path}.arguments`, 'must be the JSON of an object');
  return call(item, path, input);
}

function readShellCall(item: JsonObject, path: string): Message {
  const action = object(item['action'], `${path}.action`);
  const { command, working_directory: directory, timeout_ms: timeout } = action;
  const input = {
    command,
    ...(isGiven(directory) ? { working_directory: directory } : {}),
    ...(isGiven(timeout) ? { timeout_ms: timeout } : {}),
  };
  return call({ ...item, name: LOCAL_SHELL }, path, input);
}

function call(item: JsonObject, path: string, input: JsonObject): Message {
  const namespace = optionalText(item['namespace'], `${path}.namespace`);
  const name = upstreamName(text(item['name'], `${path}.name`), namespace);
  const id = text(item['call_id'], `${path}.call_id`);
  return { role: 'assistant', parts: [{ type: 'tool-call', id, name, input }] };
}

function result(id: unknown, idPath: string, output: unknown, path: string): Message {
  const content = (): readonly (TextPart | ImagePart)[] => {
    if (typeof output === 'string') return output === '' ? [] : [{ type: 'text', text: output }];
    return list(output, path).map((one, i) => {
      const at = `${path}.${i}`;
      return readPart(object(one, at), at);
    });
  };
  const part: Part = { type: 'tool-result', id: text(id, idPath), isError: false, content: content() };
  return { role: 'user', parts: [part] };
}
