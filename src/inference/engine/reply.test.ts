import { describe, expect, it } from 'vitest';
import { type ReplyEvent, type ReplyOptions, ReplyReader } from './reply.ts';

const CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "s": "}"}}\n</tool_call>';

/** All events joined, as a client finally sees them. */
function read(pieces: readonly string[], options: Partial<ReplyOptions> = {}) {
  const reader = new ReplyReader({ stops: [], calls: false, trim: false, ...options });
  const events: ReplyEvent[] = [];
  for (const piece of pieces) events.push(...reader.push(piece));
  const done = reader.isDone;
  events.push(...reader.end());
  const join = (kind: 'text' | 'arguments'): string =>
    events.map((event) => (event.kind === kind ? event.text : '')).join('');
  const call = events.find((event) => event.kind === 'call');
  return { text: join('text'), name: call?.name, args: join('arguments'), done, events };
}

const cases: [string, string, Partial<ReplyOptions>, Partial<ReturnType<typeof read>>][] = [
  ['a text', 'hello', {}, { text: 'hello', done: false }],
  ['a stop string', 'one\nUser: two', { stops: ['\nUser:'] }, { text: 'one', done: true }],
  ['the first of two stops', 'a. b! c', { stops: ['!', '.'] }, { text: 'a', done: true }],
  ['the beginning of a stop', 'one\nUse', { stops: ['\nUser:'] }, { text: 'one\nUse', done: false }],
  ['white space around', ' \n hi there \n', { trim: true }, { text: 'hi there' }],
  ['nothing but white space', ' \n ', { trim: true }, { text: '' }],
  ['a call', CALL, { calls: true }, { name: 'add', args: '{"a": 1, "s": "}"}', done: true }],
  ['a call after white space', `\n ${CALL}`, { calls: true }, { name: 'add', done: true }],
  ['a text where a call may come', '<b>x</b>', { calls: true }, { text: '<b>x</b>' }],
  ['a call truncated in its arguments', CALL.slice(0, 48), { calls: true }, { args: '{"a": 1', done: false }],
  ['a call truncated in its end', CALL.slice(0, -3), { calls: true }, { args: '{"a": 1, "s": "}"}' }],
  ['a call truncated in its name', CALL.slice(0, 22), { calls: true }, { text: '', args: '' }],
  ['a call when calls are off', CALL, {}, { text: CALL, name: undefined }],
  ['text after a stop', 'a|b|c', { stops: ['|'] }, { text: 'a' }],
];

describe('ReplyReader', () => {
  it.each(cases)('reads %s', (_name, text, options, expected) => {
    expect(read([text], options)).toMatchObject(expected);
  });

  it.each(cases)('reads %s the same when it is cut anywhere', (_name, text, options, expected) => {
    expect(read([...text], options)).toMatchObject(expected);
    for (let at = 0; at <= text.length; at++) {
      expect(read([text.slice(0, at), text.slice(at)], options)).toMatchObject(expected);
    }
  });

  it('emits text as soon as it can no longer be a stop string', () => {
    const reader = new ReplyReader({ stops: ['\nUser:'], calls: false, trim: false });
    expect(reader.push('one')).toEqual([{ kind: 'text', text: 'one' }]);
    expect(reader.push('\nUs')).toEqual([]);
    expect(reader.push('ed')).toEqual([{ kind: 'text', text: '\nUsed' }]);
  });

  it('emits the arguments of a call as they arrive', () => {
    const reader = new ReplyReader({ stops: [], calls: true, trim: false });
    expect(reader.push(CALL.slice(0, 41))).toEqual([{ kind: 'call', name: 'add' }]);
    expect(reader.push(' {"a":')).toEqual([{ kind: 'arguments', text: '{"a":' }]);
    expect(reader.isCall).toBe(true);
  });
});
