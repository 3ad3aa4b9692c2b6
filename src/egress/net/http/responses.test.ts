import { describe, expect, it } from 'vitest';
import { HttpResponses } from './responses.ts';

/** Whether everything is answered, after each byte. */
function states(methods: readonly string[], text: string): boolean[] {
  const responses = new HttpResponses();
  for (const method of methods) responses.expect(method);
  return [...Buffer.from(text, 'latin1')].map((byte) => {
    responses.push(Uint8Array.of(byte));
    return responses.isComplete;
  });
}
const OK = 'HTTP/1.1 200 OK\r\n';

describe('HttpResponses', () => {
  it('is complete if nothing was requested', () => {
    expect(new HttpResponses().isComplete).toBe(true);
  });
  it.each([
    [['GET'], `${OK}Content-Length: 3\r\n\r\nabc`],
    [['GET'], `${OK}content-length:0\r\n\r\n`],
    [['GET'], `${OK}Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX: y\r\n\r\n`],
    [['HEAD'], `${OK}Content-Length: 3\r\n\r\n`],
    [['GET'], 'HTTP/1.1 204 No Content\r\n\r\n'],
    [['GET'], 'HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n'],
    [['PUT'], `HTTP/1.1 100 Continue\r\n\r\n${OK}Content-Length: 1\r\n\r\na`],
    [['HEAD', 'GET'], `${OK}Content-Length: 3\r\n\r\n${OK}Content-Length: 1\r\n\r\na`],
  ])('%j ends with the last byte, and not before: %j', (methods, text) => {
    const all = states(methods, text);
    expect(all.indexOf(true)).toBe(text.length - 1);
    const whole = new HttpResponses();
    for (const method of methods) whole.expect(method);
    whole.push(Buffer.from(text, 'latin1'));
    expect(whole.isComplete).toBe(true);
  });
  it.each([
    `${OK}\r\n`,
    `${OK}Transfer-Encoding: gzip\r\n\r\n`,
    `${OK}Content-Length: 1\r\nContent-Length: 1\r\n\r\na`,
    `${OK}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    `${OK}Transfer-Encoding: chunked\r\n\r\nxyz\r\n`,
    'HTTP/1.1 101 Switching Protocols\r\n\r\n',
    'SSH-2.0\r\n\r\n',
    `HTTP/1.1 200 OK\r\nX: ${'y'.repeat(70_000)}\r\nContent-Length: 0\r\n\r\n`,
  ])('never ends: %j', (text) => {
    expect(states(['GET'], `${text}${OK}Content-Length: 0\r\n\r\n`)).not.toContain(true);
  });
  it('tracks a limited number of pipelined requests', () => {
    const isCompleteAfter = (count: number): boolean => {
      const responses = new HttpResponses();
      for (let i = 0; i < count; i += 1) responses.expect('GET');
      responses.push(Buffer.from('HTTP/1.1 204 x\r\n\r\n'.repeat(count)));
      return responses.isComplete;
    };
    expect([isCompleteAfter(1024), isCompleteAfter(1025)]).toEqual([true, false]);
  });
  it('is not complete if more arrives than was requested', () => {
    const answer = `${OK}Content-Length: 0\r\n\r\n`;
    expect(states(['GET'], answer + answer).at(-1)).toBe(false);
  });
});
