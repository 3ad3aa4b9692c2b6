import { describe, expect, it } from 'vitest';
import { compare, rowsOf } from './compare.ts';

describe('compare', () => {
  const context = (said: string[] = []) => ({
    rounds: 2,
    signal: new AbortController().signal,
    say: (text: string) => void said.push(text),
  });

  it('measures all ways in turn, and does not count round 0, failures, and ways that do not exist', async () => {
    const [order, said]: [string[], string[]] = [[], []];
    const { own, base, none } = await compare(context(said), 'start', {
      own: async (round) => {
        order.push(`own ${round}`);
        return { ready: round, each: [round, 10 * round] };
      },
      base: async (round) => {
        order.push(`base ${round}`);
        return round === 1 ? undefined : { ready: -round };
      },
      none: null as (() => Promise<{ ready: number }>) | null,
    });
    expect(order).toEqual(['own 0', 'base 0', 'own 1', 'base 1', 'own 2', 'base 2']);
    expect(said).toEqual(['start 0 of 2', 'start 1 of 2', 'start 2 of 2']);
    expect([own('ready'), own('each'), base('ready'), none('ready')]).toEqual([[1, 2], [1, 10, 2, 20], [-2], []]);
  });

  it('begins with round 1 without a warm-up, and ends when it is canceled', async () => {
    const control = new AbortController();
    const rounds: number[] = [];
    const measured = compare(
      { ...context(), signal: control.signal },
      'x',
      {
        own: async (round) => {
          rounds.push(round);
          control.abort(new Error('canceled'));
          return { ms: 1 };
        },
      },
      { warmUp: false },
    );
    await expect(measured).rejects.toThrow('canceled');
    expect(rounds).toEqual([1]);
  });
});

describe('rowsOf', () => {
  it('a row has the unit, its baseline, and its failures', () => {
    const row = rowsOf('ms', 'kvm');
    expect(row('a', [1], ['b', [2]], { failed: 3, note: 'n' })).toEqual({
      name: 'a',
      unit: 'ms',
      accelerator: 'kvm',
      samples: [1],
      baseline: { name: 'b', samples: [2] },
      failed: 3,
      note: 'n',
    });
    expect(row('a', [], null).baseline).toBeNull();
  });
});
