/**
 * The halves of dialects that no product code has: a writer of Anthropic's requests, a reader of OpenAI's, and a
 * reader of Anthropic's answers. Tests prove round trips with them.
 */
import type {
  ConversationRequest,
  ImagePart,
  Message,
  Part,
  TextPart,
} from '../../src/inference/bridge/dialect/model.ts';
import { ERROR_PREFIX, IMAGES_FOLLOW } from '../../src/inference/bridge/dialect/openai/write-request.ts';
import type { JsonObject } from '../../src/inference/bridge/json-body.ts';

const defined = (object: JsonObject): JsonObject =>
  Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined));

export function writeAnthropicRequest(request: ConversationRequest): JsonObject {
  const { toolChoice, parallelToolCalls, format, tools } = request;
  const serial = parallelToolCalls ? {} : { disable_parallel_tool_use: true };
  const choice = toolChoice ?? (parallelToolCalls ? undefined : { type: 'auto' });
  return defined({
    model: request.model,
    stream: request.stream,
    system: request.system,
    messages: request.messages.map(({ role, parts }) => ({ role, content: parts.map(block) })),
    tools: tools.map(({ name, description, schema, strict }) =>
      defined({ name, description, input_schema: schema, strict }),
    ),
    tool_choice: choice === undefined ? undefined : { ...choice, ...serial },
    max_tokens: request.maxTokens,
    temperature: request.temperature,
    top_p: request.topP,
    top_k: request.topK,
    stop_sequences: request.stop,
    // There is no "any JSON".
    output_config: typeof format === 'object' ? { format: { type: 'json_schema', schema: format } } : undefined,
  });
}

function block(part: Part): JsonObject {
  switch (part.type) {
    case 'text':
      return part as unknown as JsonObject;
    case 'image':
      return { type: 'image', source: { type: 'base64', media_type: part.mediaType, data: part.data } };
    case 'reasoning':
      return { type: 'thinking', thinking: part.text, signature: 'x' };
    case 'tool-call':
      return { type: 'tool_use', id: part.id, name: part.name, input: part.input };
    case 'tool-result': {
      const { id, isError, content } = part;
      return { type: 'tool_result', tool_use_id: id, is_error: isError, content: content.map(block) };
    }
  }
}

interface WireMessage {
  readonly role: Message['role'] | 'system' | 'tool';
  readonly content: string | null | readonly JsonObject[];
  readonly reasoning_content?: string;
  readonly tool_call_id?: string;
  readonly tool_calls?: readonly { id: string; function: { name: string; arguments: string } }[];
}

/** Reads messages of a chat completions request, as far as their form distinguishes them. */
export function readOpenaiMessages(body: JsonObject): {
  readonly system: string;
  readonly messages: readonly Message[];
} {
  const messages = body['messages'] as readonly WireMessage[];
  const [first] = messages;
  // A system message at the beginning is indistinguishable from the system's text.
  const system = first?.role === 'system' ? String(first.content) : '';
  const out: { role: Message['role']; parts: Part[] }[] = [];
  for (const message of messages.slice(system === '' ? 0 : 1)) {
    const role = message.role === 'assistant' ? 'assistant' : 'user';
    const last = out.at(-1);
    const parts = readParts(message);
    if (last?.role === role) last.parts.push(...parts);
    else out.push({ role, parts });
  }
  return { system, messages: out };
}

function readParts(message: WireMessage): Part[] {
  const { role, content, reasoning_content: reasoning, tool_calls: calls = [] } = message;
  const texts = readContent(content);
  if (role === 'tool') {
    const text = texts[0]?.type === 'text' ? texts[0].text : '';
    const isError = text.startsWith(ERROR_PREFIX);
    const rest = isError ? text.slice(ERROR_PREFIX.length) : text;
    const kept: TextPart[] = rest === '' || rest === IMAGES_FOLLOW ? [] : [{ type: 'text', text: rest }];
    return [{ type: 'tool-result', id: message.tool_call_id ?? '', isError, content: kept }];
  }
  return [
    ...(reasoning === undefined ? [] : [{ type: 'reasoning' as const, text: reasoning }]),
    ...texts,
    ...calls.map(({ id, function: { name, arguments: text } }) => ({
      type: 'tool-call' as const,
      id,
      name,
      input: JSON.parse(text) as JsonObject,
    })),
  ];
}

function readContent(content: WireMessage['content']): (TextPart | ImagePart)[] {
  if (content === null || content === '') return [];
  if (typeof content === 'string') return [{ type: 'text', text: content }];
  return content.map((part) => {
    if (part['type'] === 'text') return { type: 'text', text: String(part['text']) };
    const { url } = part['image_url'] as { url: string };
    const [, mediaType = '', data = ''] = /^data:([^;]+);base64,(.*)$/.exec(url) ?? [];
    return { type: 'image', mediaType, data };
  });
}

export interface AnthropicEvent {
  readonly type: string;
  readonly [key: string]: unknown;
}

/** @throws unless every event has its type as its name */
export function anthropicEvents(text: string): AnthropicEvent[] {
  return text
    .split('\n\n')
    .filter((event) => event !== '')
    .map((event) => {
      const [name = '', data = ''] = event.split('\n');
      const value = JSON.parse(data.replace(/^data: /, '')) as AnthropicEvent;
      if (name !== `event: ${value.type}`) throw new Error(`${name}: ${value.type}`);
      return value;
    });
}

type Block = Record<string, unknown>;

/** The message of a whole stream, assembled as Anthropic's clients do. @throws if its events are out of order */
export function joinAnthropicStream(text: string): JsonObject {
  const [first, ...events] = anthropicEvents(text);
  if (first?.type !== 'message_start') throw new Error('no message_start');
  const message = { ...(first['message'] as Record<string, unknown>) };
  const content: Block[] = [];
  let json = '';
  let isOpen = false;
  for (const event of events) {
    const current = content.at(-1) ?? {};
    const atCurrent = event['index'] === content.length - 1;
    const delta = (event['delta'] ?? {}) as Record<string, string>;
    switch (event.type) {
      case 'content_block_start':
        if (isOpen || event['index'] !== content.length) throw new Error('blocks overlap');
        content.push({ ...(event['content_block'] as Block) });
        json = '';
        isOpen = true;
        break;
      case 'content_block_delta':
        if (!isOpen || !atCurrent) throw new Error('a delta outside of its block');
        if (delta['type'] === 'input_json_delta') json += delta['partial_json'];
        for (const name of ['text', 'thinking', 'signature']) {
          if (delta[name] !== undefined) current[name] = String(current[name]) + delta[name];
        }
        break;
      case 'content_block_stop':
        if (!isOpen || !atCurrent) throw new Error('the end of another block');
        if (current['type'] === 'tool_use') current['input'] = JSON.parse(json);
        isOpen = false;
        break;
      case 'message_delta':
        Object.assign(message, delta, { usage: event['usage'] });
        break;
      case 'message_stop':
        if (isOpen || event !== events.at(-1)) throw new Error('an early end');
        return { ...message, content };
      default:
        throw new Error(event.type);
    }
  }
  throw new Error('no message_stop');
}

export interface ResponsesEvent {
  readonly type: string;
  readonly [key: string]: unknown;
}

/** @throws unless every event has its type as its name, and they are numbered */
export function responsesEvents(text: string): ResponsesEvent[] {
  return text
    .split('\n\n')
    .filter((event) => event !== '')
    .map((event, i) => {
      const [name = '', data = ''] = event.split('\n');
      const value = JSON.parse(data.replace(/^data: /, '')) as ResponsesEvent;
      if (name !== `event: ${value.type}`) throw new Error(`${name}: ${value.type}`);
      if (value['sequence_number'] !== i) throw new Error(`${value['sequence_number']} is not ${i}`);
      return value;
    });
}

/**
 * The response of a whole stream, assembled from its deltas and compared with the last event, which has all of it.
 * @throws if the events are out of order or contradict each other
 */
export function joinResponsesStream(text: string): JsonObject {
  const [created, begun, ...events] = responsesEvents(text);
  if (created?.type !== 'response.created' || begun?.type !== 'response.in_progress') {
    throw new Error('no beginning');
  }
  const last = events.pop();
  const output: JsonObject[] = [];
  let joined = '';
  let isOpen = false;
  for (const event of events) {
    if (event['output_index'] !== output.length) throw new Error('another item');
    const [, kind = '', what = ''] = /^response\.(.*)\.(\w+)$/.exec(event.type) ?? [];
    if (kind === 'output_item') {
      if (isOpen === (what === 'added')) throw new Error('items overlap');
      isOpen = what === 'added';
      joined = isOpen ? '' : joined;
      if (!isOpen) output.push(event['item'] as JsonObject);
      continue;
    }
    if (!isOpen) throw new Error('a part outside of its item');
    if (what === 'delta') joined += String(event['delta']);
    const whole = event['text'] ?? event['arguments'] ?? event['input'];
    if (what === 'done' && !kind.endsWith('part') && whole !== joined) throw new Error('not joined');
  }
  const response = last?.['response'] as JsonObject | undefined;
  if (last?.type !== `response.${response?.['status']}`) throw new Error('no end');
  if (JSON.stringify(response?.['output']) !== JSON.stringify(output)) throw new Error('another end');
  return response ?? {};
}

/** Items as a client writes them: one for each part. */
export function writeResponsesRequest(request: ConversationRequest): JsonObject {
  const { toolChoice, format, strictFormat, tools, effort } = request;
  const choices = { auto: 'auto', any: 'required', none: 'none' };
  return defined({
    model: request.model,
    stream: request.stream,
    instructions: request.system,
    input: request.messages.flatMap(({ role, parts }) => parts.map((part) => itemOf(role, part))),
    tools: tools.map(({ name, description, schema, strict }) =>
      defined({ type: 'function', name, description, parameters: schema, strict }),
    ),
    tool_choice:
      toolChoice?.type === 'tool'
        ? { type: 'function', name: toolChoice.name }
        : toolChoice && choices[toolChoice.type],
    parallel_tool_calls: request.parallelToolCalls,
    max_output_tokens: request.maxTokens,
    temperature: request.temperature,
    top_p: request.topP,
    reasoning: effort === undefined ? undefined : { effort },
    text:
      format === undefined
        ? undefined
        : {
            format:
              format === 'json'
                ? { type: 'json_object' }
                : defined({ type: 'json_schema', name: 'x', schema: format, strict: strictFormat }),
          },
  });
}

function itemOf(role: Message['role'], part: Part): JsonObject {
  switch (part.type) {
    case 'text':
    case 'image':
      return { type: 'message', role, content: [inputPart(part, role)] };
    case 'reasoning':
      return { type: 'reasoning', id: 'rs_1', summary: [], content: [{ type: 'reasoning_text', text: part.text }] };
    case 'tool-call': {
      const { id, name, input } = part;
      return { type: 'function_call', call_id: id, name, arguments: JSON.stringify(input) };
    }
    case 'tool-result': {
      const output = part.content.map((inner) => inputPart(inner, 'user'));
      return { type: 'function_call_output', call_id: part.id, output };
    }
  }
}

function inputPart(part: TextPart | ImagePart, role: Message['role']): JsonObject {
  if (part.type === 'text') {
    return { type: role === 'user' ? 'input_text' : 'output_text', text: part.text };
  }
  return { type: 'input_image', detail: 'auto', image_url: `data:${part.mediaType};base64,${part.data}` };
}
