/** Reads a request of Anthropic's Messages API, whose fields were checked, into a conversation. Pure. */
import { isJsonObject, type JsonObject } from '../../json-body.ts';
import { accepted, type Checked, refused } from '../../refusal.ts';
import type {
  ConversationRequest,
  ImagePart,
  Message,
  Part,
  TextPart,
  Tool,
  ToolChoice,
} from '../model.ts';

/** What Anthropic's models take. */
const IMAGE_TYPES: ReadonlySet<unknown> = new Set([
  'image/jpeg',
  'image/png',
  'image/gif',
  'image/webp',
]);
/** Not one expression for the whole: V8 gives up on those with megabytes. */
const NOT_BASE64 = /[^A-Za-z0-9+/=]/;
/** Between texts that were apart. */
const GAP = '\n\n';
const SHOWN_CHARACTERS_MAX = 60;

/** A fault in the request, from any depth of it; `readRequest` turns it into a refusal. */
class Fault extends Error {
  readonly path: string;
  readonly code: string;

  constructor(path: string, why: string, code = 'invalid_value') {
    super(`${path}: ${why}`);
    this.path = path;
    this.code = code;
  }
}

/** @param needsLimit `max_tokens` is required */
export function readRequest(body: JsonObject, needsLimit: boolean): Checked<ConversationRequest> {
  try {
    return accepted(read(body, needsLimit));
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    return refused(400, error.code, `${error.message}.`, { param: error.path });
  }
}

function read(body: JsonObject, needsLimit: boolean): ConversationRequest {
  const { tool_choice: choice } = body;
  const maxTokens = optionalNumber(body['max_tokens'], 'max_tokens');
  if (maxTokens === undefined && needsLimit) throw new Fault('max_tokens', 'is missing');
  if (maxTokens !== undefined && (!Number.isSafeInteger(maxTokens) || maxTokens < 1)) {
    throw new Fault('max_tokens', 'must be a whole number above 0');
  }
  const messages = list(body['messages'], 'messages').map(readMessage);
  if (messages.length === 0) throw new Fault('messages', 'at least one message is required');
  return {
    model: optionalText(body['model'], 'model'),
    stream: optionalFlag(body['stream'], 'stream') ?? false,
    system: readTexts(body['system'] ?? '', 'system').join(GAP),
    messages: mergeNeighbors(messages),
    tools: optionalList(body['tools'], 'tools').map(readTool),
    toolChoice: isGiven(choice) ? readChoice(choice) : undefined,
    parallelToolCalls:
      !isJsonObject(choice) ||
      optionalFlag(choice['disable_parallel_tool_use'], 'tool_choice') !== true,
    maxTokens,
    temperature: optionalNumber(body['temperature'], 'temperature'),
    topP: optionalNumber(body['top_p'], 'top_p'),
    topK: optionalNumber(body['top_k'], 'top_k'),
    stop: optionalList(body['stop_sequences'], 'stop_sequences').map((one, i) =>
      text(one, `stop_sequences.${i}`),
    ),
    format: readFormat(body),
  };
}

/** Anthropic's servers take neighbors of the same role for one message; many templates refuse them. */
function mergeNeighbors(messages: readonly Message[]): readonly Message[] {
  const merged: { readonly role: Message['role']; readonly parts: Part[] }[] = [];
  for (const { role, parts } of messages) {
    const last = merged.at(-1);
    if (last?.role === role) for (const part of parts) last.parts.push(part);
    else merged.push({ role, parts: [...parts] });
  }
  return merged;
}

function readMessage(value: unknown, i: number): Message {
  const path = `messages.${i}`;
  const { role, content } = object(value, path);
  // Claude Code sends some. Templates of many models refuse them after the beginning.
  if (role === 'system') {
    const said = readTexts(content, `${path}.content`).join(GAP);
    return { role: 'user', parts: [{ type: 'text', text: `<system>\n${said}\n</system>` }] };
  }
  if (role !== 'user' && role !== 'assistant') {
    throw new Fault(`${path}.role`, 'must be "user" or "assistant"');
  }
  if (typeof content === 'string') return { role, parts: [{ type: 'text', text: content }] };
  const blocks = list(content, `${path}.content`);
  return {
    role,
    parts: blocks.flatMap((block, j) => {
      const at = `${path}.content.${j}`;
      return role === 'user' ? readUserBlock(block, at) : readAssistantBlock(block, at);
    }),
  };
}

function readUserBlock(value: unknown, path: string): readonly Part[] {
  const block = object(value, path);
  if (block['type'] !== 'tool_result') return [readContent(block, path)];
  const content = block['content'] ?? '';
  return [
    {
      type: 'tool-result',
      id: text(block['tool_use_id'], `${path}.tool_use_id`),
      isError: optionalFlag(block['is_error'], `${path}.is_error`) ?? false,
      content:
        typeof content === 'string'
          ? content === ''
            ? []
            : [{ type: 'text', text: content }]
          : list(content, `${path}.content`).map((one, i) =>
              readContent(object(one, `${path}.content.${i}`), `${path}.content.${i}`),
            ),
    },
  ];
}

function readAssistantBlock(value: unknown, path: string): readonly Part[] {
  const block = object(value, path);
  switch (block['type']) {
    case 'tool_use':
      return [
        {
          type: 'tool-call',
          id: text(block['id'], `${path}.id`),
          name: text(block['name'], `${path}.name`),
          input: object(block['input'], `${path}.input`),
        },
      ];
    case 'thinking':
      return [{ type: 'reasoning', text: text(block['thinking'], `${path}.thinking`) }];
    case 'redacted_thinking':
      // Only Anthropic can read it.
      return [];
    case 'text':
      return [readContent(block, path)];
    default:
      throw unknownBlock(block['type'], path);
  }
}

/** What a user or a tool shows the model. */
function readContent(block: JsonObject, path: string): TextPart | ImagePart {
  switch (block['type']) {
    case 'text':
      return { type: 'text', text: text(block['text'], `${path}.text`) };
    case 'image':
      return readImage(object(block['source'], `${path}.source`), `${path}.source`);
    case 'document':
      return readDocument(block, path);
    default:
      throw unknownBlock(block['type'], path);
  }
}

function readImage(source: JsonObject, path: string): ImagePart {
  const { type, media_type: mediaType, data } = source;
  if (type !== 'base64') {
    const why = 'must be "base64": read the image in the sandbox and send its data';
    throw new Fault(`${path}.type`, why, 'remote_media_refused');
  }
  if (!IMAGE_TYPES.has(mediaType)) {
    throw new Fault(`${path}.media_type`, `must be one of ${[...IMAGE_TYPES].join(', ')}`);
  }
  const encoded = text(data, `${path}.data`).replaceAll(/\s/g, '');
  const padding = encoded.indexOf('=');
  if (NOT_BASE64.test(encoded) || (padding >= 0 && padding < encoded.length - 2)) {
    throw new Fault(`${path}.data`, 'is not base64');
  }
  return { type: 'image', mediaType: String(mediaType), data: encoded };
}

function readDocument(block: JsonObject, path: string): TextPart {
  const source = object(block['source'], `${path}.source`);
  if (source['type'] !== 'text') {
    const why = 'must be "text": model servers read no other documents; send their text';
    throw new Fault(`${path}.source.type`, why, 'field_refused');
  }
  const parts = [block['title'], block['context'], source['data']].filter(isGiven);
  const texts = parts.map((one) => text(one, path));
  return { type: 'text', text: texts.join(GAP) };
}

function readTexts(value: unknown, path: string): readonly string[] {
  if (typeof value === 'string') return value === '' ? [] : [value];
  return list(value, path).map((one, i) => {
    const block = object(one, `${path}.${i}`);
    if (block['type'] !== 'text') throw unknownBlock(block['type'], `${path}.${i}`);
    return text(block['text'], `${path}.${i}.text`);
  });
}

function readTool(value: unknown, i: number): Tool {
  const path = `tools.${i}`;
  const { type, name, description, input_schema: schema, strict } = object(value, path);
  if (isGiven(type) && type !== 'custom') {
    const why =
      `the type ${shown(type)} is refused: Anthropic's servers run such tools or know their form. ` +
      'Run the tool in the sandbox and offer it with a name and an "input_schema"';
    throw new Fault(path, why, 'provider_tool_refused');
  }
  return {
    name: text(name, `${path}.name`),
    description: optionalText(description, `${path}.description`),
    schema: object(schema, `${path}.input_schema`),
    strict: optionalFlag(strict, `${path}.strict`),
  };
}

function readChoice(value: unknown): ToolChoice {
  const { type, name } = object(value, 'tool_choice');
  if (type === 'tool') return { type, name: text(name, 'tool_choice.name') };
  if (type === 'auto' || type === 'any' || type === 'none') return { type };
  throw new Fault('tool_choice.type', 'must be "auto", "any", "tool" or "none"');
}

function readFormat(body: JsonObject): JsonObject | undefined {
  const config = isGiven(body['output_config'])
    ? object(body['output_config'], 'output_config')
    : {};
  const given = config['format'] ?? body['output_format'];
  if (!isGiven(given)) return undefined;
  const { type, schema } = object(given, 'output_config.format');
  if (type !== 'json_schema') throw new Fault('output_config.format.type', 'must be "json_schema"');
  return object(schema, 'output_config.format.schema');
}

function unknownBlock(type: unknown, path: string): Fault {
  return new Fault(`${path}.type`, `the block ${shown(type)} is refused here`, 'field_refused');
}

const isGiven = (value: unknown): boolean => value !== undefined && value !== null;
const shown = (value: unknown): string =>
  String(JSON.stringify(value)).slice(0, SHOWN_CHARACTERS_MAX);

function object(value: unknown, path: string): JsonObject {
  if (!isJsonObject(value)) throw new Fault(path, 'must be an object');
  return value;
}

function list(value: unknown, path: string): readonly unknown[] {
  if (!Array.isArray(value)) throw new Fault(path, 'must be a list');
  return value;
}

function text(value: unknown, path: string): string {
  if (typeof value !== 'string') throw new Fault(path, 'must be a string');
  return value;
}

const optionalList = (value: unknown, path: string): readonly unknown[] =>
  isGiven(value) ? list(value, path) : [];
const optionalText = (value: unknown, path: string): string | undefined =>
  isGiven(value) ? text(value, path) : undefined;

function optionalFlag(value: unknown, path: string): boolean | undefined {
  if (!isGiven(value)) return undefined;
  if (typeof value !== 'boolean') throw new Fault(path, 'must be true or false');
  return value;
}

function optionalNumber(value: unknown, path: string): number | undefined {
  if (!isGiven(value)) return undefined;
  if (typeof value !== 'number') throw new Fault(path, 'must be a number');
  return value;
}
