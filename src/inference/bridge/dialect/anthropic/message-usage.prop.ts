import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { messageEvents, sseOf } from '../../../../../test/support/messages.ts';
import { isJsonObject, type JsonObject, parseObject } from '../../json-body.ts';
import { eventData, SseSplitter } from '../../sse.ts';
import { hideInAnswer, hideInEvent } from './hide-cache-hits.ts';
import { MessageUsage } from './message-usage.ts';

const count = fc.nat(100_000);
const text = fc.string({ unit: 'grapheme', maxLength: 12 });
const hostile: fc.Arbitrary<unknown> = fc.oneof(
  count,
  fc.constantFrom<unknown>(null, -1, 0.5, '7', [], {}, true, Number.MAX_SAFE_INTEGER),
);
const usage = fc.dictionary(
  fc.oneof(
    fc.constantFrom(
      'input_tokens',
      'output_tokens',
      'cache_read_input_tokens',
      'cache_creation_input_tokens',
      'cache_creation',
      'iterations',
      'service_tier',
    ),
    fc.string(),
  ),
  hostile,
);

function countsOf(chunks: readonly Buffer[]) {
  const splitter = new SseSplitter(1 << 20);
  const seen = new MessageUsage();
  for (const chunk of chunks)
    for (const { bytes } of splitter.push(chunk)) seen.see(parseObject(eventData(bytes) ?? '') ?? {});
  return { ...seen.counts(1), done: seen.done, failed: seen.failed, chunks: seen.chunks };
}

describe('MessageUsage', () => {
  it('counts the same for any cut of the bytes, and as the last event says', () => {
    // With a cache hit.
    const some = fc.integer({ min: 3, max: 100_000 });
    // A text has at least one token.
    const written = fc.integer({ min: 1, max: 100_000 });
    fc.assert(
      fc.property(text, some, written, fc.integer({ min: 1, max: 40 }), (said, all, out, size) => {
        const cached = Math.floor(all / 3);
        const reported = {
          input_tokens: all - cached,
          cache_read_input_tokens: cached,
          cache_creation_input_tokens: 0,
          output_tokens: out,
        };
        const bytes = Buffer.from(sseOf(messageEvents({ text: said, usage: reported })));
        const pieces: Buffer[] = [];
        for (let i = 0; i < bytes.length; i += size) pieces.push(bytes.subarray(i, i + size));
        const whole = countsOf([bytes]);
        expect(countsOf(pieces)).toEqual(whole);
        expect(whole).toMatchObject({
          promptTokens: all,
          completionTokens: out,
          estimated: false,
          done: true,
          failed: false,
        });
      }),
    );
  });

  it('keeps counts of the first event that the last one omits', () => {
    const absent = fc.constantFrom<unknown>(undefined, null);
    fc.assert(
      fc.property(count, count, count, absent, absent, (own, read, written, first, second) => {
        const start = { input_tokens: own, cache_read_input_tokens: read, cache_creation_input_tokens: written };
        const end = {
          input_tokens: own,
          cache_read_input_tokens: first,
          cache_creation_input_tokens: second,
          output_tokens: 3,
        };
        const seen = new MessageUsage();
        seen.see({ type: 'message_start', message: { usage: start } });
        const last = { type: 'message_delta', usage: end };
        seen.see(last);
        const all = own + read + written;
        expect(seen.counts(1)).toMatchObject({ promptTokens: all, cachedTokens: read });
        expect(hideInEvent(last, seen.input)).toMatchObject({ usage: { input_tokens: all } });
      }),
    );
  });

  it('keeps cache hits that the last event counts as none, whether it adds them to the others or omits them', () => {
    const some = fc.integer({ min: 1, max: 100_000 });
    fc.assert(
      fc.property(count, some, count, fc.boolean(), (own, read, written, isAdded) => {
        const seen = new MessageUsage();
        const all = own + read + written;
        const start = { input_tokens: own, cache_read_input_tokens: read, cache_creation_input_tokens: written };
        seen.see({ type: 'message_start', message: { usage: start } });
        seen.see({
          type: 'message_delta',
          usage: {
            input_tokens: isAdded ? all : own,
            cache_read_input_tokens: 0,
            cache_creation_input_tokens: 0,
            output_tokens: 3,
          },
        });
        expect(seen.counts(1)).toMatchObject({ promptTokens: all, cachedTokens: read });
      }),
    );
  });

  it('never counts a negative number or a non-number, whatever an upstream reports', () => {
    const event = fc.oneof(
      fc.record({ type: fc.constant('message_start'), message: fc.record({ usage }) }),
      fc.record({ type: fc.constant('message_delta'), usage }),
      fc.record({ type: fc.constant('content_block_delta'), delta: fc.record({ text: hostile }) }),
    );
    fc.assert(
      fc.property(fc.array(event as fc.Arbitrary<JsonObject>), (events) => {
        const seen = new MessageUsage();
        for (const one of events) seen.see(one);
        const { promptTokens, completionTokens } = seen.counts(5);
        for (const tokens of [promptTokens, completionTokens]) {
          expect(Number.isSafeInteger(tokens) && tokens >= 0).toBe(true);
        }
      }),
    );
  });
});

describe('cache hits', () => {
  it('two usages that differ only in what came from the cache look the same', () => {
    const part = fc.tuple(count, count, count);
    fc.assert(
      fc.property(part, fc.nat(), fc.nat(), count, ([a, b, c], cutAt, writtenAt, out) => {
        const all = a + b + c;
        const read = all === 0 ? 0 : cutAt % (all + 1);
        const written = all - read === 0 ? 0 : writtenAt % (all - read + 1);
        const shown = [
          [a, b, c],
          [all - read - written, read, written],
        ].map(([own, cacheRead, created]) =>
          hideInAnswer({
            usage: {
              input_tokens: own,
              cache_read_input_tokens: cacheRead,
              cache_creation_input_tokens: created,
              cache_creation: { ephemeral_5m_input_tokens: created },
              output_tokens: out,
              iterations: [{ input_tokens: own }],
            },
          }),
        );
        expect(shown[0]).toEqual(shown[1]);
      }),
    );
  });

  it('hiding is idempotent, and leaves every other member of an event unchanged', () => {
    const name = fc.string().filter((key) => !['usage', 'diagnostics', '__proto__'].includes(key));
    const rest = fc.dictionary(name, hostile);
    fc.assert(
      fc.property(rest, usage, fc.boolean(), (members, given, isStart) => {
        const answer = { ...members, usage: given, diagnostics: { cache_miss_reason: 'x' } };
        const event = isStart ? { type: 'message_start', message: answer } : { ...answer, type: 'message_delta' };
        const hidden = hideInEvent(event) ?? event;
        expect(hideInEvent(hidden)).toEqual(hidden);
        const after: unknown = isStart ? hidden['message'] : hidden;
        if (!isJsonObject(after)) throw new Error('no object');
        const { usage: _, diagnostics, ...others } = after;
        expect(diagnostics).toBeNull();
        expect(others).toEqual(isStart ? members : { ...members, type: 'message_delta' });
      }),
    );
  });

  it('events without usage pass unchanged', () => {
    const events = messageEvents({ reasoning: 'a', text: 'b' });
    for (const event of events) {
      const isChanged = event.type === 'message_start' || event.type === 'message_delta';
      expect(hideInEvent(event) !== undefined).toBe(isChanged);
    }
  });
});
