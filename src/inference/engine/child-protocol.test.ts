import { describe, expect, it } from 'vitest';
import { readEvent } from './child-protocol.ts';

describe('readEvent', () => {
  it.each([
    ['a line of llama.cpp', 'ggml_cuda_init: found 1 device'],
    ['broken JSON', '{"type":"ready"'],
    ['an unknown type', '{"type":"exec","message":"x"}'],
    ['ready without its facts', '{"type":"ready"}'],
    ['ready with null', '{"type":"ready","info":null}'],
    ['a failure without a message', '{"type":"failed","code":"internal"}'],
    ['a notice without text', '{"type":"notice","message":{}}'],
  ])('%s: returns no event and throws no error', (_name, line) => {
    expect(readEvent(line)).toBeUndefined();
  });

  it('shortens a notice to one line without control characters', () => {
    const message = `\u001b[2Jone\ntwo ${'x'.repeat(10_000)}`;
    const event = readEvent(JSON.stringify({ type: 'notice', message }));
    expect(event).toEqual({ type: 'notice', message: expect.stringMatching(/^\?\[2Jone two x+$/) });
    expect(event?.type === 'notice' && event.message.length).toBe(400);
  });
});
