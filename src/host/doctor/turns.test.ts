import { expect, it } from 'vitest';
import { checkTurns } from './turns.ts';

const atMs = Date.UTC(2026, 11, 3, 6);

it('checkTurns: names the three longest turns, and whose fault they are', () => {
  const own = { atMs, ms: 320, cpuMs: 300, place: 'parse (src/a.ts:1:2)' };
  const waited = { atMs, ms: 100, cpuMs: 10, place: null };
  const found = checkTurns({ longTurns: [own, waited, waited, { ...waited, place: 'fourth' }] });
  expect(found.verdict).toBe('limited');
  expect(found.detail).toBe(
    'the daemon served nobody for 320 ms (processor 300 ms) at 2026-12-03T06:00:00Z in parse (src/a.ts:1:2); ' +
      Array(2).fill('100 ms (processor 10 ms) at 2026-12-03T06:00:00Z in an unknown place').join('; '),
  );
  expect(found.remedy).toContain('issue');
  expect(checkTurns({ longTurns: [waited] }).remedy).toContain('waited for a processor');
});

it('checkTurns: is content without long turns, or without a daemon', () => {
  expect(checkTurns({ longTurns: [] })).toMatchObject({ verdict: 'ok', remedy: null });
  expect(checkTurns(null)).toMatchObject({ verdict: 'unused', remedy: null });
});
