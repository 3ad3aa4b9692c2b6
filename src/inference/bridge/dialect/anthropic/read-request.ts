/** Reads a checked request of Anthropic's Messages API into a conversation. Pure. */

import type { Checked } from '../../../../base/http/refusal.ts';
import { isJsonObject, type JsonObject } from '../../json-body.ts';
import type { ConversationRequest, ImagePart, Message, Part, TextPart, Tool, ToolChoice } from '../model.ts';
import {
  asUserText,
  base64,
  checkedRead,
  Fault,
  GAP,
  IMAGE_TYPES,
  isGiven,
  list,
  mergeNeighbors,
  object,
  optionalFlag,
  optionalLimit,
  optionalList,
  optionalNumber,
  optionalText,
  shown,
  text,
} from '../read-values.ts';

/** @param needsLimit true if `max_tokens` is required */
export function readRequest(body: JsonObject, needsLimit: boolean): Checked<ConversationRequest> {
  return checkedRead(() => read(body, needsLimit));
}

function read(body: JsonObject, needsLimit: boolean): ConversationRequest {
  const { tool_choice: choice } = body;
  const maxTokens = optionalLimit(body['max_tokens'], 'max_tokens');
  if (maxTokens === undefined && needsLimit) throw new Fault('max_tokens', 'is missing');
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
      !isJsonObject(choice) || optionalFlag(choice['disable_parallel_tool_use'], 'tool_choice') !== true,
    maxTokens,
    temperature: optionalNumber(body['temperature'], 'temperature'),
    topP: optionalNumber(body['top_p'], 'top_p'),
    topK: optionalNumber(body['top_k'], 'top_k'),
    stop: optionalList(body['stop_sequences'], 'stop_sequences').map((one, i) => text(one, `stop_sequences.${i}`)),
    format: readFormat(body),
  };
}

function readMessage(value: unknown, i: number): Message {
  const path = `messages.${i}`;
  const { role, content } = object(value, path);
  // Claude Code sends system messages within a conversation, which the templates of many models refuse.
  if (role === 'system') {
    const said = readTexts(content, `${path}.content`).join(GAP);
    return { role: 'user', parts: [{ type: 'text', text: asUserText(said) }] };
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
              readResultBlock(object(one, `${path}.content.${i}`), `${path}.content.${i}`),
            ),
    },
  ];
}

/** Reads content of a tool result. The tool by which Claude Code loads tools returns references to them. */
function readResultBlock(block: JsonObject, path: string): TextPart | ImagePart {
  if (block['type'] !== 'tool_reference') return readContent(block, path);
  const name = text(block['tool_name'], `${path}.tool_name`);
  return { type: 'text', text: `The tool ${name} is available now.` };
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
  return { type: 'image', mediaType: String(mediaType), data: base64(data, `${path}.data`) };
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
  const config = isGiven(body['output_config']) ? object(body['output_config'], 'output_config') : {};
  const given = config['format'] ?? body['output_format'];
  if (!isGiven(given)) return undefined;
  const { type, schema } = object(given, 'output_config.format');
  if (type !== 'json_schema') throw new Fault('output_config.format.type', 'must be "json_schema"');
  return object(schema, 'output_config.format.schema');
}

function unknownBlock(type: unknown, path: string): Fault {
  return new Fault(`${path}.type`, `the block ${shown(type)} is refused here`, 'field_refused');
}
