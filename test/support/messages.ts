/** Answers of a scripted server of Anthropic's API, whole and as events. */
import type { ServerResponse } from 'node:http';
import type { ScriptedAnswer } from './completions.ts';
import { sendJson, startEvents } from './mock-upstream.ts';

/** With 4 tokens read from a cache and 2 written to it: 11 in total, as in `completions.ts`. */
export const MESSAGE_USAGE = {
  input_tokens: 5,
  cache_creation_input_tokens: 2,
  cache_read_input_tokens: 4,
  cache_creation: { ephemeral_5m_input_tokens: 2, ephemeral_1h_input_tokens: 0 },
  output_tokens: 7,
  service_tier: 'standard',
};

/** A signature in the form of Anthropic's servers. */
export const SIGNATURE = 'EqQBsigned==';

const stopOf = ({ finish, calls = [] }: ScriptedAnswer): string =>
  finish ?? (calls.length > 0 ? 'tool_use' : 'end_turn');

const messageOf = (more: object): object => ({
  id: 'msg_01',
  type: 'message',
  role: 'assistant',
  model: 'm1',
  stop_sequence: null,
  ...more,
});

export function wholeMessage(answer: ScriptedAnswer): Record<string, unknown> {
  const { reasoning, text, calls = [], usage = MESSAGE_USAGE } = answer;
  const content = [
    ...(reasoning === undefined ? [] : [{ type: 'thinking', thinking: reasoning, signature: SIGNATURE }]),
    ...(text === undefined ? [] : [{ type: 'text', text }]),
    ...calls.map(({ id, name, arguments: json }) => ({
      type: 'tool_use',
      id,
      name,
      input: JSON.parse(json) as unknown,
    })),
  ];
  return { ...messageOf({ content, stop_reason: stopOf(answer) }), usage };
}

export interface MessageEvent {
  readonly type: string;
  readonly [key: string]: unknown;
}

/** The data of each event, with texts in pieces of at most `size` characters. */
export function messageEvents(answer: ScriptedAnswer, size = 5): readonly MessageEvent[] {
  const { reasoning, text, calls = [] } = answer;
  const usage = answer.usage === undefined ? MESSAGE_USAGE : answer.usage;
  const start = { ...MESSAGE_USAGE, output_tokens: 1 };
  const message = { ...messageOf({ content: [], stop_reason: null }), usage: start };
  const events: MessageEvent[] = [{ type: 'message_start', message }];
  let index = 0;
  const block = (content_block: object, deltas: readonly object[]): void => {
    events.push({ type: 'content_block_start', index, content_block });
    for (const delta of deltas) events.push({ type: 'content_block_delta', index, delta });
    events.push({ type: 'content_block_stop', index });
    index += 1;
  };
  if (reasoning !== undefined) {
    const deltas = pieces(reasoning, size).map((thinking) => ({ type: 'thinking_delta', thinking }));
    const signed = { type: 'signature_delta', signature: SIGNATURE };
    block({ type: 'thinking', thinking: '', signature: '' }, [...deltas, signed]);
  }
  events.push({ type: 'ping' });
  if (text !== undefined) {
    const deltas = pieces(text, size).map((piece) => ({ type: 'text_delta', text: piece }));
    block({ type: 'text', text: '' }, deltas);
  }
  for (const { id, name, arguments: json } of calls) {
    const deltas = pieces(json, size).map((partial_json) => ({ type: 'input_json_delta', partial_json }));
    block({ type: 'tool_use', id, name, input: {} }, deltas);
  }
  const delta = { stop_reason: stopOf(answer), stop_sequence: null };
  events.push({ type: 'message_delta', delta, ...(usage === null ? {} : { usage }) });
  events.push({ type: 'message_stop' });
  return events;
}

function pieces(text: string, size: number): string[] {
  const out: string[] = [];
  for (let i = 0; i < text.length; i += size) out.push(text.slice(i, i + size));
  return out;
}

export const sseOf = (events: readonly MessageEvent[]): string =>
  events.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join('');

/** Answers in the form that the request asks for. */
export function sendMessage(body: string, response: ServerResponse, answer: ScriptedAnswer): void {
  if ((JSON.parse(body) as { stream?: boolean }).stream !== true) {
    sendJson(response, 200, wholeMessage(answer), { 'request-id': 'req_1' });
    return;
  }
  startEvents(response, { 'request-id': 'req_1' });
  response.end(sseOf(messageEvents(answer)));
}
