/** Reads a checked request of OpenAI's Responses API into a conversation. Pure. */

import type { Checked } from '../../../../base/http/refusal.ts';
import { isJsonObject, type JsonObject, parseObject } from '../../json-body.ts';
import type { KeepRequest, KeptContext, KeptNeeds } from '../dialect.ts';
import type { AnswerContext, ConversationRequest } from '../model.ts';
import {
  checkedRead,
  Fault,
  GAP,
  isGiven,
  object,
  optionalFlag,
  optionalLimit,
  optionalNumber,
  optionalText,
  text,
} from '../read-values.ts';
import { isReference, type PlacedItem, placedItems, readItems } from './read-items.ts';
import { readChoice, readTools } from './read-tools.ts';

export interface ReadRequest {
  readonly conversation: ConversationRequest;
  readonly answer: AnswerContext;
  /** Undefined if the answer must not be kept. */
  readonly keep: KeepRequest | undefined;
}

const ENCRYPTED = 'reasoning.encrypted_content';
/** Limit of a member that the answer repeats; a longer one is omitted. */
const REPEATED_CHARACTERS_MAX = 64 * 1024;

export function readNeeds(body: JsonObject): KeptNeeds | undefined {
  const { previous_response_id: previous, input } = body;
  const items = Array.isArray(input)
    ? input.flatMap((one: unknown) =>
        isJsonObject(one) && isReference(one) && typeof one['id'] === 'string' ? [one['id']] : [],
      )
    : [];
  const hasPrevious = typeof previous === 'string';
  if (!hasPrevious && items.length === 0) return undefined;
  return { previous: hasPrevious ? previous : undefined, items };
}

export function readRequest(body: JsonObject, kept: KeptContext): Checked<ReadRequest> {
  return checkedRead(() => read(body, kept));
}

function read(body: JsonObject, kept: KeptContext): ReadRequest {
  const placed = placedItems(body['input'] ?? []).map((one) => resolved(one, kept));
  const earlier = kept.conversation.map((json) => ({ item: keptItem(json), path: 'input' }));
  const { system, messages } = readItems([...earlier, ...placed]);
  if (messages.length === 0) throw new Fault('input', 'at least one message is required');
  const offered = readTools(body['tools']);
  const { choice, tools } = readChoice(body['tool_choice'], offered);
  const instructions = optionalText(body['instructions'], 'instructions');
  const reasoning = readReasoning(body['reasoning']);
  const maxTokens = optionalLimit(body['max_output_tokens'], 'max_output_tokens');
  const previous = optionalText(body['previous_response_id'], 'previous_response_id');
  const keeps = optionalFlag(body['store'], 'store') ?? true;
  const include = Array.isArray(body['include']) ? body['include'] : [body['include']];
  return {
    conversation: {
      model: optionalText(body['model'], 'model'),
      stream: optionalFlag(body['stream'], 'stream') ?? false,
      system: [instructions ?? '', ...system].filter((said) => said !== '').join(GAP),
      messages,
      tools: tools.map(({ tool }) => tool),
      toolChoice: choice,
      parallelToolCalls: optionalFlag(body['parallel_tool_calls'], 'parallel_tool_calls') ?? true,
      maxTokens,
      temperature: optionalNumber(body['temperature'], 'temperature'),
      topP: optionalNumber(body['top_p'], 'top_p'),
      topK: undefined,
      stop: [],
      ...readFormat(body['text']),
      effort: reasoning.effort,
    },
    answer: {
      stop: [],
      reasoning: true,
      responses: {
        tools: tools.map(({ form }) => form),
        repeated: repeatedMembers(body),
        summary: reasoning.summary,
        encrypted: include.includes(ENCRYPTED),
      },
    },
    keep: keeps ? { previous, items: placed.map(({ item }) => itemToKeep(item)) } : undefined,
  };
}

function resolved(placed: PlacedItem, kept: KeptContext): PlacedItem {
  const { item, path } = placed;
  if (item['type'] !== 'item_reference') return placed;
  const json = new Map(kept.items).get(text(item['id'], `${path}.id`));
  if (json === undefined) throw new Fault(`${path}.id`, 'is not kept here');
  return { item: keptItem(json), path };
}

function keptItem(json: string): JsonObject {
  const item = parseObject(json);
  if (item === undefined) throw new Error('a kept item is not JSON');
  return item;
}

const ID_CHARACTERS_MAX = 256;

function itemToKeep(item: JsonObject): KeepRequest['items'][number] {
  const { id, ...rest } = item;
  if (typeof id === 'string' && id !== '' && id.length <= ID_CHARACTERS_MAX) {
    return { id, json: JSON.stringify(item) };
  }
  return { id: undefined, json: JSON.stringify(rest) };
}

function readReasoning(value: unknown): { readonly effort: string | undefined; readonly summary: boolean } {
  if (!isGiven(value)) return { effort: undefined, summary: false };
  const { effort, summary, generate_summary: old } = object(value, 'reasoning');
  return { effort: optionalText(effort, 'reasoning.effort'), summary: isGiven(summary) || isGiven(old) };
}

function readFormat(value: unknown): Pick<ConversationRequest, 'format' | 'strictFormat'> {
  const given = isGiven(value) ? object(value, 'text')['format'] : undefined;
  if (!isGiven(given)) return { format: undefined };
  const { type, schema, strict } = object(given, 'text.format');
  switch (type) {
    case 'text':
      return { format: undefined };
    case 'json_object':
      return { format: 'json' };
    case 'json_schema':
      return { format: object(schema, 'text.format.schema'), strictFormat: optionalFlag(strict, 'text.format.strict') };
    default:
      throw new Fault('text.format.type', 'must be "text", "json_object" or "json_schema"');
  }
}

/** Members of the request that OpenAI's answers repeat. Clients read some of them, e.g. the tools. */
function repeatedMembers(body: JsonObject): JsonObject {
  const or = (name: string, instead: unknown): unknown => {
    const value = body[name] ?? instead;
    return JSON.stringify(value).length > REPEATED_CHARACTERS_MAX ? instead : value;
  };
  const reasoning = isJsonObject(body['reasoning']) ? body['reasoning'] : {};
  return {
    background: false,
    instructions: or('instructions', null),
    max_output_tokens: or('max_output_tokens', null),
    metadata: or('metadata', {}),
    parallel_tool_calls: or('parallel_tool_calls', true),
    previous_response_id: or('previous_response_id', null),
    prompt_cache_key: or('prompt_cache_key', null),
    reasoning: { effort: reasoning['effort'] ?? null, summary: reasoning['summary'] ?? null },
    safety_identifier: or('safety_identifier', null),
    service_tier: 'default',
    temperature: or('temperature', null),
    text: or('text', { format: { type: 'text' } }),
    tool_choice: or('tool_choice', 'auto'),
    tools: or('tools', []),
    top_p: or('top_p', null),
    truncation: 'disabled',
    user: or('user', null),
  };
}
