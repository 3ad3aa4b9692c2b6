import { expect, it } from 'vitest';
import { floodTry, type Sample } from './flood-verdict.ts';

const round = (calmMs: number, ms: number, { cpuMs = ms, waitMs = 0 }: Partial<Sample> = {}) => ({
  calm: Array<Sample>(100).fill({ ms: calmMs, cpuMs: calmMs, waitMs: 0 }),
  flooded: Array<Sample>(100).fill({ ms, cpuMs, waitMs }),
});

it.each([
  ['a short time holds', [round(2, 40)], true, /^p99 40\.0 ms/],
  ['the best round counts', [round(2, 900), round(2, 49)], true, /^p99 49\.0 ms/],
  ['a long turn of the daemon does not hold', [round(2, 51), round(2, 60)], false, /^p99 51\.0 ms/],
  ['… on a busy machine neither', [round(200, 900, { cpuMs: 51, waitMs: 849 })], false, /^p99 900\.0 ms/],
  ['a wait without a processor is no turn', [round(2, 90, { cpuMs: 30, waitMs: 60 })], true, /^inconclusive/],
  ['a wait for something else does not hold', [round(2, 90, { cpuMs: 30 })], false, /^p99 90\.0 ms/],
  ['… but a busy machine may be why', [round(20, 90, { cpuMs: 30 })], true, /^inconclusive/],
  ['no round shows nothing', [], false, /^p99 Infinity/],
])('floodTry: %s', (_, rounds, ok, seen) => {
  expect(floodTry('REST', rounds)).toMatchObject({ ok, seen: expect.stringMatching(seen) });
});

it('floodTry: one long time of a hundred is no p99', () => {
  const [{ calm, flooded }] = [round(2, 10)];
  const once = [{ ms: 500, cpuMs: 500, waitMs: 0 }, ...flooded.slice(1)];
  expect(floodTry('REST', [{ calm, flooded: once }]).ok).toBe(true);
});
