import { expect, it } from 'vitest';
import { parseCacheSize, parseModelCache } from './model-fields.ts';

it('--model-cache of a sandbox: a time, and which requests', () => {
  expect(parseModelCache('10m')).toEqual({ ttlMs: 600_000 });
  expect(parseModelCache('90s,all')).toEqual({ ttlMs: 90_000, requests: 'all' });
});

it.each(['', 'all', '10m,', '10m,some', '10m,all,all', '0s', '500ms', '40d', 'soon'])(
  '--model-cache "%s": the error names the option',
  (text) => {
    expect(() => parseModelCache(text)).toThrow(/--model-cache/);
  },
);

it('--model-cache of the daemon: memory', () => {
  expect([parseCacheSize('1G'), parseCacheSize('none')]).toEqual([1024 ** 3, 0]);
  for (const text of ['0', '1000G', 'much']) {
    expect(() => parseCacheSize(text)).toThrow(/--model-cache/);
  }
});
