import { describe, expect, it } from 'vitest';
import { SseSplitter } from './sse.ts';
import { DocumentUsage, StreamUsage } from './usage.ts';

const event = (value: unknown) => `data: ${JSON.stringify(value)}\n\n`;
const delta = (content: string) => event({ choices: [{ delta: { content } }], usage: null });
const USAGE = event({ choices: [], usage: { prompt_tokens: 7, completion_tokens: 9 } });
const FINISH = event({ choices: [{ delta: {}, finish_reason: 'stop' }] });

function watch(text: string, hide: boolean, eventBytesMax = 1024): { usage: StreamUsage; out: string } {
  const usage = new StreamUsage(hide);
  let out = '';
  for (const piece of new SseSplitter(eventBytesMax).push(Buffer.from(text))) {
    if (usage.accept(piece)) out += piece.bytes.toString();
  }
  return { usage, out };
}

describe('StreamUsage', () => {
  it('hides the usage event and nothing else', () => {
    const text = `${delta('a')}: comment\n\n${USAGE}data: [DONE]\n\n`;
    expect(watch(text, true).out).toBe(text.replace(USAGE, ''));
    expect(watch(text, false).out).toBe(text);
  });
  it('keeps usage in an event with content, and still reads it', () => {
    const text = event({ choices: [{ delta: { content: 'a' } }], usage: { prompt_tokens: 3 } });
    const { usage, out } = watch(text, true);
    expect(out).toBe(text);
    expect(usage.counts(99)).toEqual({ promptTokens: 3, completionTokens: 1, estimated: true });
  });
  it.each([0, 300_000])('recognizes the end of a transcript and its usage, with %i bytes more', (more) => {
    const delta = event({ type: 'transcript.text.delta', delta: 'four words of text' });
    const logprobs = 'x'.repeat(more);
    const usage = { type: 'tokens', input_tokens: 14, output_tokens: 45 };
    const done = event({ type: 'transcript.text.done', text: 'four', logprobs, usage });
    const watched = watch(delta + done, false, 1024 * 1024);
    expect(watched.out).toBe(delta + done);
    expect(watched.usage.finished).toBe(true);
    expect(watched.usage.counts(1)).toEqual({ promptTokens: 14, completionTokens: 45, estimated: false });
    const cut = watch(delta, false).usage;
    expect([cut.finished, cut.counts(1)]).toEqual([false, { promptTokens: 1, completionTokens: 5, estimated: true }]);
  });
  it('hides the usage event with CRLF line ends too', () => {
    const text = `${delta('a')}${USAGE}${FINISH}`.replaceAll('\n', '\r\n');
    expect(watch(text, true).out).toBe(`${delta('a')}${FINISH}`.replaceAll('\n', '\r\n'));
  });
  it('uses the upstream’s counts', () => {
    expect(watch(delta('a') + USAGE, true).usage.counts(1)).toEqual({
      promptTokens: 7,
      completionTokens: 9,
      estimated: false,
    });
  });
  it('estimates by chunks or by length, whichever is more', () => {
    const chunks = watch(delta('a').repeat(5), true).usage.counts(11);
    expect(chunks).toEqual({ promptTokens: 11, completionTokens: 5, estimated: true });
    expect(watch(delta('a'.repeat(40)), true).usage.counts(0).completionTokens).toBe(10);
  });
  it('ignores counts of 0 for an answer with text', () => {
    const zero = { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 };
    const text = event({ choices: [{ text: 'a' }], usage: zero }).repeat(5);
    const left = { promptTokens: 11, completionTokens: 5, estimated: true };
    expect(watch(text, false).usage.counts(11)).toEqual(left);
    const whole = { promptTokens: 7, completionTokens: 9, estimated: false };
    expect(watch(text + USAGE, false).usage.counts(11)).toEqual(whole);
  });
  it.each([-1, 0.5, 1e308, '12', null, 0, {}])('does not take %j for the tokens of a text', (lie) => {
    const usage = event({ choices: [], usage: { prompt_tokens: 7, completion_tokens: lie } });
    const counted = watch(delta('a').repeat(5) + usage, true).usage.counts(11);
    expect(counted).toEqual({ promptTokens: 7, completionTokens: 5, estimated: true });
    const both = event({ choices: [], usage: { prompt_tokens: lie, completion_tokens: lie } });
    const kept = watch(delta('a') + USAGE + (lie === 0 ? '' : both), true).usage.counts(11);
    expect(kept).toEqual({ promptTokens: 7, completionTokens: 9, estimated: false });
  });
  it('counts no tokens of an answer without text, if the upstream says so', () => {
    const usage = event({ choices: [], usage: { prompt_tokens: 7, completion_tokens: 0 } });
    const none = { promptTokens: 7, completionTokens: 0, estimated: false };
    expect(watch(FINISH + usage, true).usage.counts(11)).toEqual(none);
  });
  it('counts tool calls and reasoning as output', () => {
    const call = { tool_calls: [{ function: { name: 'abcd', arguments: 'efgh' } }] };
    const text = event({ choices: [{ delta: call }] }) + event({ choices: [{ delta: { reasoning_content: 'abcd' } }] });
    expect(watch(text, true).usage.counts(0).completionTokens).toBe(3);
  });
  it('recognizes the end and errors', () => {
    expect(watch(delta('a'), true).usage.finished).toBe(false);
    expect(watch(FINISH.replace('stop', ''), true).usage.finished).toBe(false);
    expect(watch(FINISH, true).usage.finished).toBe(true);
    expect(watch('data: [DONE]\n\n', true).usage.finished).toBe(true);
    expect(watch(event({ error: { message: 'x' } }), true).usage.failed).toBe(true);
  });
  it('ignores events that are not JSON', () => {
    const text = 'data: {oops\n\ndata\n\nevent: x\n\ndata: 5\n\ndata: null\n\n';
    expect(watch(text, true).out).toBe(text);
  });
});

describe('DocumentUsage', () => {
  const counts = (text: string, generates = true) => {
    const usage = new DocumentUsage();
    const bytes = Buffer.from(text);
    for (let i = 0; i < bytes.length; i += 1000) usage.push(bytes.subarray(i, i + 1000));
    return usage.counts(5, generates);
  };
  const tokens = '"usage": {"prompt_tokens":3,"completion_tokens":4,"details":{"x":1}}';

  it('finds usage at either end of a document of any size', () => {
    const filler = `"data":"${'x'.repeat(300_000)}"`;
    const expected = { promptTokens: 3, completionTokens: 4, estimated: false };
    expect(counts(`{${filler},${tokens}}`)).toEqual(expected);
    expect(counts(`{${tokens},${filler}}`)).toEqual(expected);
  });
  it('reads how much of the prompt came from a cache, and never more than the prompt', () => {
    const usage = (cached: unknown): string =>
      `{"usage":{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":${cached}}}}`;
    expect(counts(usage(2)).cachedTokens).toBe(2);
    expect(counts(usage(9)).cachedTokens).toBe(3);
    for (const wrong of [-1, 0.5, '"2"', null, 1e300]) {
      expect(counts(usage(wrong))).not.toHaveProperty('cachedTokens');
    }
    expect(counts(`{"usage":{"prompt_tokens":3,"prompt_tokens_details":7}}`).promptTokens).toBe(3);
  });
  it('ignores text that looks like usage', () => {
    const said = JSON.stringify('"usage": {"prompt_tokens":99}');
    expect(counts(`{${tokens},"choices":[{"text":${said}}]}`).promptTokens).toBe(3);
  });
  it.each(['-1', '0.5', '1e308', '"4"', 'null'])('estimates an answer of %s tokens', (lie) => {
    const text = `{"usage":{"prompt_tokens":3,"completion_tokens":${lie}}}`;
    const completionTokens = Math.ceil(text.length / 4);
    expect(counts(text)).toEqual({ promptTokens: 3, completionTokens, estimated: true });
    const none = { promptTokens: 3, completionTokens: 0, estimated: false };
    expect(counts(text, false)).toEqual(none);
  });
  it('estimates without usage', () => {
    expect(counts('{"a":"12345678"}')).toEqual({ promptTokens: 5, completionTokens: 4, estimated: true });
    expect(counts('{"data":[]}', false).completionTokens).toBe(0);
  });
});
