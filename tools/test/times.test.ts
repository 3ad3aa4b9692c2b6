import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { doubledOf, readTimes, usualMs, withTimes, writeTimes } from './times.ts';

it('times: the last five durations of a file survive a round trip through the disk', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'nv-times-'));
  onTestFinished(() => rm(dir, { recursive: true }));
  const path = join(dir, 'cache/test-times.json');
  expect(await readTimes(path)).toEqual({});
  let times = {};
  for (let n = 1; n <= 7; n++) times = withTimes(times, [{ file: 'a', durationMs: n * 1000.4, tests: 1 }]);
  await writeTimes(path, times);
  expect(await readTimes(path)).toEqual({ a: [3001, 4002, 5002, 6002, 7003] });
  await writeFile(path, '{"a": "soon"}');
  expect(await readTimes(path)).toEqual({});
});

it('usualMs: one slow run does not change the usual duration', () => {
  expect(usualMs([1000, 900, 90_000])).toBe(1000);
  expect(usualMs(undefined)).toBeUndefined();
});

it('doubledOf: names a file that took twice as long, but no short or new one', () => {
  const times = { long: [20_000, 21_000, 19_000], short: [100] };
  const files = [
    { file: 'long', durationMs: 41_000, tests: 1 },
    { file: 'short', durationMs: 5000, tests: 1 },
    { file: 'new', durationMs: 500_000, tests: 1 },
  ];
  expect(doubledOf(times, files)).toEqual([{ ...files[0], usualMs: 20_000 }]);
  expect(doubledOf(times, [{ file: 'long', durationMs: 39_000, tests: 1 }])).toEqual([]);
});
