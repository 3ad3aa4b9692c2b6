/** Writes a conversation as a request of Anthropic's Messages API. Pure. */
import { createHash } from 'node:crypto';
import { type JsonObject, withoutUndefined } from '../../json-body.ts';
import type { ConversationRequest, ImagePart, Message, Part, TextPart, Tool, ToolResultPart } from '../model.ts';
import { GAP, mergeNeighbors } from '../read-values.ts';

/** The API requires a limit. Older models refuse one above what they can answer, so this is small. */
export const DEFAULT_MAX_TOKENS = 8192;
/** The API has no JSON format without a schema. */
export const JSON_WANTED = 'Answer with one JSON object and nothing else.';
const ID = /^[a-zA-Z0-9_-]{1,256}$/;
const ID_DIGITS = 24;

/** Omits temperature and other sampling parameters, which newer models refuse. */
export function writeMessagesRequest(request: ConversationRequest): JsonObject {
  const { model, system, messages, tools, format, stream, maxTokens } = request;
  const instructions = format === 'json' ? [system, JSON_WANTED] : [system];
  const said = instructions.filter((text) => text !== '').join(GAP);
  // Servers refuse stop sequences of white space.
  const stop = request.stop.filter((text) => text.trim() !== '');
  return withoutUndefined({
    model,
    max_tokens: maxTokens ?? DEFAULT_MAX_TOKENS,
    system: said === '' ? undefined : said,
    messages: mergeNeighbors(messages.flatMap(sendable)).map(writeMessage),
    tools: tools.length === 0 ? undefined : tools.map(writeTool),
    tool_choice: tools.length === 0 ? undefined : writeChoice(request),
    stop_sequences: stop.length === 0 ? undefined : stop,
    output_config: typeof format === 'object' ? { format: { type: 'json_schema', schema: format } } : undefined,
    stream: stream ? true : undefined,
  });
}

/** Removes what the API does not take, after which neighbors may have the same role. */
function sendable({ role, parts }: Message): readonly Message[] {
  // Only reasoning that the API's own servers have signed is accepted.
  const kept = parts.filter((part) => part.type !== 'reasoning' && !isEmpty(part));
  return kept.length === 0 ? [] : [{ role, parts: kept }];
}

const isEmpty = (part: Part): boolean => part.type === 'text' && part.text === '';

function writeMessage({ role, parts }: Message): JsonObject {
  // The API takes results before anything else.
  const results = parts.filter(({ type }) => type === 'tool-result');
  const rest = parts.filter(({ type }) => type !== 'tool-result');
  return { role, content: [...results, ...rest].flatMap(writePart) };
}

function writePart(part: Part): readonly JsonObject[] {
  switch (part.type) {
    case 'text':
    case 'image':
      return writeContent(part);
    case 'tool-call':
      return [{ type: 'tool_use', id: idOf(part.id), name: part.name, input: part.input }];
    case 'tool-result':
      return [writeResult(part)];
    case 'reasoning':
      return [];
  }
}

function writeContent(part: TextPart | ImagePart): readonly JsonObject[] {
  if (isEmpty(part)) return [];
  if (part.type === 'text') return [{ type: 'text', text: part.text }];
  const { mediaType, data } = part;
  return [{ type: 'image', source: { type: 'base64', media_type: mediaType, data } }];
}

function writeResult({ id, isError, content }: ToolResultPart): JsonObject {
  const blocks = content.flatMap(writeContent);
  return {
    type: 'tool_result',
    tool_use_id: idOf(id),
    ...(blocks.length === 0 ? {} : { content: blocks }),
    ...(isError ? { is_error: true } : {}),
  };
}

/** Ids of other servers may have characters that the API refuses. */
function idOf(id: string): string {
  if (ID.test(id)) return id;
  return `call_${createHash('sha256').update(id).digest('hex').slice(0, ID_DIGITS)}`;
}

function writeTool({ name, description, schema }: Tool): JsonObject {
  return withoutUndefined({ name, description, input_schema: { type: 'object', ...schema } });
}

function writeChoice({ toolChoice, parallelToolCalls }: ConversationRequest): JsonObject | undefined {
  if (toolChoice?.type === 'none' || parallelToolCalls) return toolChoice;
  return { ...(toolChoice ?? { type: 'auto' }), disable_parallel_tool_use: true };
}
