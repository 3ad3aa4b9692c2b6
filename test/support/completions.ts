/** Answers of a scripted chat completions server, whole and as events. */
import type { ServerResponse } from 'node:http';
import { type MockUpstream, sendJson, startEvents } from './mock-upstream.ts';

export interface ScriptedCall {
  readonly id: string;
  readonly name: string;
  readonly arguments: string;
}

export interface ScriptedAnswer {
  readonly reasoning?: string;
  readonly text?: string;
  readonly calls?: readonly ScriptedCall[];
  readonly finish?: string;
  /** vLLM's field for the stop sequence that was met. */
  readonly matched?: string;
  readonly usage?: unknown;
}

const USAGE = { prompt_tokens: 11, completion_tokens: 7, prompt_tokens_details: { cached_tokens: 4 } };

const finishOf = ({ finish, calls = [] }: ScriptedAnswer): string =>
  finish ?? (calls.length > 0 ? 'tool_calls' : 'stop');

export function wholeAnswer(answer: ScriptedAnswer): unknown {
  const { reasoning, text, calls = [], matched, usage = USAGE } = answer;
  const message = {
    role: 'assistant',
    content: text ?? null,
    ...(reasoning === undefined ? {} : { reasoning_content: reasoning }),
    ...(calls.length === 0
      ? {}
      : {
          tool_calls: calls.map(({ id, name, arguments: text }) => ({
            id,
            type: 'function',
            function: { name, arguments: text },
          })),
        }),
  };
  const choice = { index: 0, message, finish_reason: finishOf(answer), stop_reason: matched };
  return { id: 'c1', object: 'chat.completion', choices: [choice], usage };
}

/** `data` of each event, with texts in pieces of at most `size` characters. */
export function streamedAnswer(answer: ScriptedAnswer, size = 5): readonly string[] {
  const { reasoning = '', text = '', calls = [], matched, usage = USAGE } = answer;
  const chunk = (delta: unknown, more: object = {}): string =>
    JSON.stringify({ id: 'c1', choices: [{ index: 0, delta, finish_reason: null, ...more }] });
  const events = [chunk({ role: 'assistant', content: '' })];
  for (const piece of pieces(reasoning, size)) events.push(chunk({ reasoning_content: piece }));
  for (const piece of pieces(text, size)) events.push(chunk({ content: piece }));
  for (const [index, { id, name, arguments: whole }] of calls.entries()) {
    const start = { index, id, type: 'function', function: { name, arguments: '' } };
    events.push(chunk({ tool_calls: [start] }));
    for (const piece of pieces(whole, size)) {
      events.push(chunk({ tool_calls: [{ index, function: { arguments: piece } }] }));
    }
  }
  events.push(chunk({}, { finish_reason: finishOf(answer), stop_reason: matched }));
  if (usage !== null) events.push(JSON.stringify({ id: 'c1', choices: [], usage }));
  events.push('[DONE]');
  return events;
}

function pieces(text: string, size: number): string[] {
  const out: string[] = [];
  for (let i = 0; i < text.length; i += size) out.push(text.slice(i, i + size));
  return out;
}

export const sseOf = (data: readonly string[]): string => data.map((one) => `data: ${one}\n\n`).join('');

/** Answers in the form that the request asks for. */
export function sendAnswer(body: string, response: ServerResponse, answer: ScriptedAnswer): void {
  if ((JSON.parse(body) as { stream?: boolean }).stream !== true) {
    sendJson(response, 200, wholeAnswer(answer));
    return;
  }
  startEvents(response);
  response.end(sseOf(streamedAnswer(answer)));
}

/** Streams each event once its gate is resolved. @param events `data` of each */
export function answerByGates(mock: MockUpstream, events: readonly string[]): readonly PromiseWithResolvers<void>[] {
  const gates = events.map(() => Promise.withResolvers<void>());
  mock.answer(async (_, response) => {
    startEvents(response);
    for (const [i, event] of events.entries()) {
      await gates[i]?.promise;
      response.write(sseOf([event]));
    }
    response.end();
  });
  return gates;
}
