import { expect, it } from 'vitest';
import { MetricRegistry } from '../../base/metrics.ts';
import { LongTurns } from './long-turns.ts';

const DAY_MS = 24 * 60 * 60 * 1000;

/** A turn that begins at `startMs`, on both clocks. */
const turn = (startMs: number, lateMs: number) => {
  const endMs = startMs + 40 + lateMs;
  return { startMs, endMs, lateMs, cpuMs: lateMs / 2, wallMs: endMs };
};

it('LongTurns: keeps turns over 50 ms with the place that was sampled before or after their end', () => {
  const turns = new LongTurns();
  turns.note(turn(0, 50));
  turns.sampled({ atMs: 150, place: 'parse' });
  turns.note(turn(100, 120));
  turns.note(turn(300, 60.4));
  turns.sampled({ atMs: 350, place: 'sort' });
  turns.note(turn(500, 80));
  expect(turns.list(1000)).toEqual([
    { atMs: 260, ms: 120, cpuMs: 60, place: 'parse' },
    { atMs: 620, ms: 80, cpuMs: 40, place: null },
    { atMs: 400.4, ms: 60, cpuMs: 30, place: 'sort' },
  ]);
});

it('LongTurns: keeps the ten longest of a day', () => {
  const turns = new LongTurns();
  for (let n = 0; n < 30; n++) turns.note(turn(n * 1000, 100 + n));
  expect(turns.list(30_000).map(({ ms }) => ms)).toEqual([129, 128, 127, 126, 125, 124, 123, 122, 121, 120]);
  expect(turns.list(DAY_MS + 30_000)).toEqual([]);
  turns.note(turn(DAY_MS + 30_000, 60));
  expect(turns.list(DAY_MS + 30_000).map(({ ms }) => ms)).toEqual([60]);
});

it('LongTurns: metrics count all turns, and keep the longest', async () => {
  const turns = new LongTurns();
  for (const lateMs of [1, 30, 700, 60]) turns.note(turn(0, lateMs));
  const registry = new MetricRegistry();
  registry.add(...turns.metrics());
  const text = await registry.text();
  expect(text).toContain('neurovisor_loop_turn_seconds_bucket{le="0.05"} 2\n');
  expect(text).toContain('neurovisor_loop_turn_seconds_count 4\n');
  expect(text).toContain('neurovisor_loop_longest_turn_seconds 0.7\n');
});
