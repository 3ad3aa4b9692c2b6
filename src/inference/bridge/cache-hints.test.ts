import { describe, expect, it } from 'vitest';
import { CacheHintMask } from './cache-hints.ts';

function masked(text: string, size = text.length): string {
  const mask = new CacheHintMask();
  const bytes = Buffer.from(text);
  const parts: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += size) parts.push(mask.mask(bytes.subarray(at, at + size)));
  return Buffer.concat(parts).toString();
}

const ANSWER = {
  choices: [{ message: { content: 'say "cached_tokens": 7 and \\ "timings": {"a": 1}', tool_calls: [] } }],
  usage: { prompt_tokens: 70, prompt_tokens_details: { cached_tokens: 64, audio_tokens: 3 } },
  timings: { cache_n: 236, prompt_ms: 30.5, nested: ['}', { x: '"' }] },
  prompt_cache_hit_tokens: -1.5e3,
  tokens_cached: null,
  total_time: 'fast',
  metrics: { time_to_first_token_ms: 3 },
  sglext: { cached_tokens_details: { device: 7, host: 1 } },
  cost: 0.004,
  last: 9,
};

describe('CacheHintMask', () => {
  it.each([1, 2, 3, 7, 64, 10_000])('masks counts and times, %i bytes at a time', (size) => {
    for (const text of [JSON.stringify(ANSWER), JSON.stringify(ANSWER, null, 2)]) {
      const out = masked(text, size);
      expect(JSON.parse(out)).toEqual({
        ...ANSWER,
        usage: { prompt_tokens: 70, prompt_tokens_details: { cached_tokens: 0, audio_tokens: 3 } },
        timings: {},
        prompt_cache_hit_tokens: 0,
        total_time: '',
        metrics: {},
        sglext: { cached_tokens_details: {} },
        cost: 0,
      });
    }
  });

  it('masks a key that is written with escapes', () => {
    expect(JSON.parse(masked('{"cached\\u005ftokens":5}'))).toEqual({ cached_tokens: 0 });
  });

  it('a string that looks like a key, and a quote in a comment, change nothing', () => {
    for (const text of ['["timings", 5]', '{"a":"timings","b":5}', ': a "\ndata: {"n":5}']) {
      expect(masked(text)).toBe(text);
    }
    expect(masked(': a "\ndata: {"cached_tokens":55}')).toBe(': a "\ndata: {"cached_tokens":0}');
  });

  it('the length of a masked value does not depend on the value', () => {
    const answer = (hits: number) => JSON.stringify({ cached_tokens: hits, timings: { n: hits } });
    expect(new Set([0, 7, 4096].map((hits) => masked(answer(hits))))).toHaveLength(1);
  });
});
