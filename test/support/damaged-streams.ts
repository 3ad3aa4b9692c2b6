/** Streams of model servers, ways to damage them, and how clients of each dialect understand a stream. */
import { type MessageEvent, messageEvents } from './messages.ts';

export type Random = () => number;

/** A client's result of a whole stream. */
export interface Understood {
  /** `none`: it broke off silently. */
  readonly end: 'complete' | 'error' | 'none';
  readonly text: string;
  /** Name and arguments of each tool call, in order; arguments that are not JSON stay text. */
  readonly calls: readonly (readonly [string, unknown])[];
  /** Formal faults, which no client would expect. */
  readonly faults: readonly string[];
}

type Json = Readonly<Record<string, unknown>>;

export const TEXT = 'Grüße 😀🇩🇪 \u0000 end';
export const CALLS = [
  ['f', { a: 'é😀' }],
  ['g', {}],
] as const;
const ANSWER = {
  text: TEXT,
  calls: CALLS.map(([name, input], i) => ({ id: `c${i}`, name, arguments: JSON.stringify(input) })),
};

/** Each event of an answer with its line ends. The halves of one character are in two events. */
export const EVENTS: Readonly<Record<'openai' | 'anthropic', readonly string[]>> = {
  openai: openaiEvents(),
  anthropic: anthropicEvents(),
};

/** Short, since each byte is a cut point. */
function anthropicEvents(): readonly string[] {
  const start = { type: 'message_start', message: { usage: { input_tokens: 5 } } };
  const isLong = ({ type }: MessageEvent): boolean => ['ping', 'message_start', 'message_delta'].includes(type);
  const blocks = messageEvents(ANSWER, 7).filter((event) => !isLong(event));
  const end = { type: 'message_delta', delta: { stop_reason: 'tool_use' }, usage: { output_tokens: 7 } };
  const all = [start, ...blocks.slice(0, -1), end, ...blocks.slice(-1)];
  return all.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`);
}

function openaiEvents(): readonly string[] {
  const chunk = (delta: object, finish: string | null = null): string =>
    `data: ${JSON.stringify({ choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`;
  const events: string[] = [];
  for (let i = 0; i < TEXT.length; i += 7) events.push(chunk({ content: TEXT.slice(i, i + 7) }));
  for (const [index, { id, name, arguments: json }] of ANSWER.calls.entries()) {
    events.push(chunk({ tool_calls: [{ index, id, function: { name, arguments: '' } }] }));
    events.push(chunk({ tool_calls: [{ index, function: { arguments: json } }] }));
  }
  const usage = { prompt_tokens: 5, completion_tokens: 7 };
  return [
    ...events,
    chunk({}, 'tool_calls'),
    `data: ${JSON.stringify({ choices: [], usage })}\n\n`,
    'data: [DONE]\n\n',
  ];
}

const pick = (random: Random, below: number): number => Math.floor(random() * below);

/** One byte flipped, removed, doubled, or replaced by NUL or by a byte that UTF-8 never has. */
export function damagedByte(bytes: Buffer, random: Random): Buffer {
  const at = pick(random, bytes.length);
  const byte = bytes[at] ?? 0;
  const instead = [[byte ^ (1 << pick(random, 8))], [], [byte, byte], [0], [0xff]][pick(random, 5)];
  return Buffer.concat([bytes.subarray(0, at), Buffer.from(instead ?? []), bytes.subarray(at + 1)]);
}

/** An event dropped, doubled, moved, or sent again after the end. */
export function damagedOrder(events: readonly string[], random: Random): Buffer {
  const all = [...events];
  const at = pick(random, all.length);
  const [taken = ''] = all.splice(at, 1);
  const places: readonly (readonly number[])[] = [[], [at, at], [pick(random, all.length + 1)], [at, all.length + 1]];
  for (const place of places[pick(random, places.length)] ?? []) all.splice(place, 0, taken);
  return Buffer.from(all.join(''));
}

/** The same stream with other line ends, a byte order mark, comments and fields that clients skip. */
export function disguised(events: readonly string[], random: Random): Buffer {
  const ends = (run: string): string => {
    let out = '';
    for (let i = 0; i < run.length; i += 1) {
      // A CR before an LF would form one line end with it.
      const all = out.endsWith('\r') ? ['\r\n', '\r'] : ['\n', '\r\n', '\r'];
      out += all[pick(random, all.length)] ?? '\n';
    }
    return out;
  };
  const noise = (): string =>
    random() < 0.3 ? (['\n', ': note\n\n', 'retry: 5\n', 'id: 7\n'][pick(random, 4)] ?? '') : '';
  const text = events.map((event) => noise() + event).join('');
  const mixed = text.replaceAll(/\n+/g, ends);
  return Buffer.from((random() < 0.5 ? '\ufeff' : '') + mixed);
}

/** Cut at random places, some of them within a character. */
export function pieces(bytes: Buffer, random: Random): readonly Buffer[] {
  const most = random() < 0.03 ? 1 : random() < 0.3 ? 150 : Number.POSITIVE_INFINITY;
  const out: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const size = 1 + pick(random, Math.min(most, bytes.length));
    out.push(bytes.subarray(at, at + size));
    at += size;
  }
  return out;
}

/** WHATWG HTML section 9.2.6. `rest` is the data of an event that no empty line ends. */
function sseData(stream: string): { readonly data: readonly string[]; readonly rest: string | null } {
  const data: string[] = [];
  let lines: string[] = [];
  const all = stream.replace(/^\ufeff/, '').split(/\r\n|\n|\r/);
  // What follows the last line end is no line.
  if (all.at(-1) === '') all.pop();
  for (const line of all) {
    if (line === '') {
      if (lines.length > 0) data.push(lines.join('\n'));
      lines = [];
    } else if (line === 'data') lines.push('');
    else if (line.startsWith('data:')) lines.push(line.slice(5).replace(/^ /, ''));
  }
  return { data, rest: lines.length > 0 ? lines.join('\n') : null };
}

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const memberOf = (value: unknown, name: string): unknown => (isObject(value) ? value[name] : undefined);
const stringOf = (value: unknown): string => (typeof value === 'string' ? value : '');

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

const argumentsOf = (text: string): unknown => parsed(text) ?? text;

/** Reads events one by one until one ends the answer. */
class Reading {
  text = '';
  readonly calls: { name: string; json: string }[] = [];
  readonly faults: string[] = [];
  end: Understood['end'] = 'none';

  get result(): Understood {
    const { end, text, faults } = this;
    const calls = this.calls.map(({ name, json }) => [name, argumentsOf(json === '' ? '{}' : json)] as const);
    return { end, text: text.toWellFormed(), calls, faults };
  }
}

type ReadEvent = (event: Json, reading: Reading) => boolean;

/** @param takesRest whether a whole event without its empty line counts, as for a server that ends its stream early */
function readEvents(stream: string, read: ReadEvent, takesRest: boolean): Understood {
  const reading = new Reading();
  const { data, rest } = sseData(stream);
  const all = takesRest && rest !== null ? [...data, rest] : data;
  if (rest !== null && !takesRest) reading.faults.push('half an event');
  for (const one of all) {
    if (one.trim() === '[DONE]' && read === chatEvent) {
      reading.end = 'complete';
      break;
    }
    const event = parsed(one);
    if (!isObject(event)) {
      // Half of the last event is no event.
      if (one === rest && reading.end === 'complete') break;
      reading.end = 'error';
      break;
    }
    if (read(event, reading)) break;
  }
  return reading.result;
}

const chatEvent: ReadEvent = (event, reading) => {
  const { error, choices } = event;
  if (error !== undefined && error !== null) {
    reading.end = 'error';
    return true;
  }
  for (const choice of Array.isArray(choices) ? choices : []) {
    if ((memberOf(choice, 'index') ?? 0) !== 0) continue;
    const delta = memberOf(choice, 'delta') ?? memberOf(choice, 'message');
    reading.text += stringOf(memberOf(delta, 'content'));
    const calls = memberOf(delta, 'tool_calls');
    for (const call of Array.isArray(calls) ? calls : []) {
      const fn = memberOf(call, 'function');
      const name = stringOf(memberOf(fn, 'name'));
      if (name !== '') reading.calls.push({ name, json: '' });
      const last = reading.calls.at(-1);
      if (last !== undefined) last.json += stringOf(memberOf(fn, 'arguments'));
    }
    if (stringOf(memberOf(choice, 'finish_reason')) !== '') reading.end = 'complete';
  }
  return false;
};

const messageEvent: ReadEvent = (event, reading) => {
  const { type, delta, content_block: block, error } = event;
  if (type === 'error' || isObject(error)) {
    reading.end = 'error';
    return true;
  }
  if (type === 'content_block_start') {
    if (memberOf(block, 'type') === 'text') reading.text += stringOf(memberOf(block, 'text'));
    if (memberOf(block, 'type') === 'tool_use') {
      reading.calls.push({ name: stringOf(memberOf(block, 'name')), json: '' });
    }
  }
  if (type === 'content_block_delta') {
    if (memberOf(delta, 'type') === 'text_delta') reading.text += stringOf(memberOf(delta, 'text'));
    const last = reading.calls.at(-1);
    if (memberOf(delta, 'type') === 'input_json_delta' && last !== undefined)
      last.json += stringOf(memberOf(delta, 'partial_json'));
  }
  if (type === 'message_stop') reading.end = 'complete';
  return type === 'message_stop';
};

/** A server that has said why it stops has said everything, even if the last event is missing. */
const stoppedMessageEvent: ReadEvent = (event, reading) => {
  const isOver = messageEvent(event, reading);
  const reason = memberOf(event['delta'], 'stop_reason');
  if (event['type'] === 'message_delta' && stringOf(reason) !== '') reading.end = 'complete';
  return isOver;
};

const responseEvent: ReadEvent = (event, reading) => {
  const { type, delta, item } = event;
  if (event['sequence_number'] !== counted(reading)) reading.faults.push('a wrong number');
  if (type === 'error' || type === 'response.failed') {
    reading.end = 'error';
    return true;
  }
  if (type === 'response.output_text.delta') reading.text += stringOf(delta);
  if (type === 'response.output_item.done' && memberOf(item, 'type') === 'function_call') {
    const json = stringOf(memberOf(item, 'arguments'));
    reading.calls.push({ name: stringOf(memberOf(item, 'name')), json });
  }
  const isOver = type === 'response.completed' || type === 'response.incomplete';
  if (isOver) reading.end = 'complete';
  return isOver;
};

const numbers = new WeakMap<Reading, number>();
function counted(reading: Reading): number {
  const next = numbers.get(reading) ?? 0;
  numbers.set(reading, next + 1);
  return next;
}

function readLines(stream: string): Understood {
  const reading = new Reading();
  const lines = stream.split('\n');
  if (lines.pop() !== '') reading.faults.push('half a line');
  for (const line of lines) {
    const value = parsed(line);
    if (!isObject(value)) reading.faults.push('a line is no JSON object');
    if (reading.end !== 'none') reading.faults.push('a line after the end');
    const message = memberOf(value, 'message');
    reading.text += stringOf(memberOf(message, 'content'));
    const calls = memberOf(message, 'tool_calls');
    for (const call of Array.isArray(calls) ? calls : []) {
      const fn = memberOf(call, 'function');
      const json = JSON.stringify(memberOf(fn, 'arguments'));
      reading.calls.push({ name: stringOf(memberOf(fn, 'name')), json });
    }
    if (memberOf(value, 'error') !== undefined) reading.end = 'error';
    else if (memberOf(value, 'done') === true) reading.end = 'complete';
  }
  return reading.result;
}

/** A client's result of the bridge's stream. */
export const CLIENTS: Readonly<Record<string, (stream: string) => Understood>> = {
  openai: (stream) => readEvents(stream, chatEvent, false),
  anthropic: (stream) => readEvents(stream, messageEvent, false),
  responses: (stream) => readEvents(stream, responseEvent, false),
  ollama: readLines,
};

/** The best possible result of a server's stream, which may be damaged. */
export const SERVERS: Readonly<Record<'openai' | 'anthropic', (stream: string) => Understood>> = {
  openai: (stream) => readEvents(stream, chatEvent, true),
  anthropic: (stream) => readEvents(stream, stoppedMessageEvent, true),
};

/** True if a client has everything that its server sent, or sees that it has not. */
export const isHonest = (seen: Understood, sent: Understood): boolean => {
  if (seen.faults.length > 0) return false;
  return seen.end === 'error' || (seen.end === 'complete' && sent.end === 'complete' && seen.text === sent.text);
};
