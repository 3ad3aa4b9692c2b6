import { describe, expect, it } from 'vitest';
import { NO_MODEL_POLICY } from '../../sandbox/contract/model-policy.ts';
import { budgetRows, lifetimeRows, provenanceRows, secretRows, statusText } from './sandbox-rows.ts';

const HOUR = 3_600_000;
const PLAIN = { end: null, endsAtMs: null, onTimeout: 'kill', idleTimeoutMs: null } as const;

describe('lifetimeRows', () => {
  it.each([
    [{ ...PLAIN, autoResume: true }, []],
    [{ ...PLAIN, autoResume: true, endsAtMs: 5 * HOUR }, [['timeout', 'ends in 4 h']]],
    [
      { ...PLAIN, autoResume: false, endsAtMs: 5 * HOUR, onTimeout: 'pause' as const },
      [
        ['timeout', 'pauses in 4 h'],
        ['when paused', 'no automatic resume'],
      ],
    ],
    [{ ...PLAIN, autoResume: true, idleTimeoutMs: HOUR }, [['when idle', 'pauses after 60 min']]],
  ])('%j', (info, rows) => {
    expect(lifetimeRows(info, HOUR)).toEqual(rows);
  });

  it('returns no rows for an ended sandbox', () => {
    const end = { cause: 'removed' } as never;
    expect(lifetimeRows({ ...PLAIN, autoResume: true, endsAtMs: 5, end }, HOUR)).toEqual([]);
  });
});

it('statusText: names the only version that can resume a pause', () => {
  const paused = { status: 'paused', pausedTo: 'disk', pauseReason: 'timeout', end: null } as const;
  expect(statusText({ ...paused, foreignPause: null })).toBe('paused (disk, timeout)');
  expect(statusText({ ...paused, foreignPause: '0.2.0 (abc1234)' })).toBe(
    'paused (disk, timeout, only for 0.2.0 (abc1234))',
  );
});

it('provenanceRows, secretRows: name the origin, and secrets without values', () => {
  expect(provenanceRows({ snapshot: null, template: null, parent: null })).toEqual([]);
  expect(provenanceRows({ snapshot: 's', template: 't', parent: 'p' })).toEqual([
    ['snapshot', 's'],
    ['template', 't'],
    ['fork of', 'p'],
  ]);
  const secret = { name: 'KEY', hosts: ['a.example', 'b.example'], places: [], held: true };
  const places = [{ in: 'header', name: 'X-A' } as const, { in: 'query', name: 'key' } as const];
  expect(secretRows({ secrets: [{ ...secret, places }] })).toEqual([
    ['secret', 'KEY at a.example, b.example in header=X-A, query=key'],
  ]);
  expect(secretRows({ secrets: [secret, { ...secret, held: false }] })).toEqual([
    ['secret', 'KEY at a.example, b.example'],
    ['secret', 'KEY at a.example, b.example; value missing, set it again with neurovisor update --secret'],
  ]);
});

it('budgetRows: what was used of each limit in this window; the cost in dollars', () => {
  const budget = { requests: 5, costNanoDollars: 5_000_000_000, windowMs: HOUR };
  const used = { inputTokens: 1, outputTokens: 2, requests: 3, costNanoDollars: 1_250_000_000 };
  const rows = (window: number) =>
    budgetRows(
      { id: 'a', models: { ...NO_MODEL_POLICY, budget }, modelUse: { account: 'a', used: { ...used, window } } },
      7 * HOUR,
    );
  expect(rows(7)).toEqual([
    ['model budget', '3 of 5 requests per 60 min'],
    ['model budget', '$1.25 of $5 per 60 min'],
  ]);
  const cache = { ttlMs: HOUR, requests: 'all' } as const;
  const cached = { id: 'a', models: { ...NO_MODEL_POLICY, cache }, modelUse: { account: 'a', used: null } };
  expect(budgetRows(cached, 0)).toEqual([['model cache', '60 min, every request']]);
  expect(rows(6)).toEqual([
    ['model budget', '0 of 5 requests per 60 min'],
    ['model budget', '$0 of $5 per 60 min'],
  ]);
});
