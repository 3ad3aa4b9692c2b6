import { describe, expect, it } from 'vitest';
import { NOTHING as NONE } from './layer.ts';
import { onceMoreIfHostDied } from './nested-layer.ts';
import type { Outcome } from './verdict.ts';

const NOTHING: Outcome = { ...NONE, passed: 1 };

describe('onceMoreIfHostDied', () => {
  const failed = (message: string): Outcome => ({
    ...NOTHING,
    failed: 1,
    failures: [{ file: 'f', test: 't', message }],
  });
  async function outcomeOf(...outcomes: Outcome[]) {
    let text = '';
    const write = (more: string): void => {
      text += more;
    };
    const left = [...outcomes];
    const run = () => Promise.resolve(left.shift() ?? NOTHING);
    return { outcome: await onceMoreIfHostDied({ write }, run), left: left.length, text };
  }

  it('a failure of the product is never retried', async () => {
    const first = failed('AssertionError: expected 1 to be 2');
    expect(await outcomeOf(first, NOTHING)).toEqual({ outcome: first, left: 1, text: '' });
  });
  it('the death of the host is reported, and its file is run exactly once more', async () => {
    const died = failed('some\nNestedHostError: QEMU ended with 1\n  at x');
    const seen = await outcomeOf(died, NOTHING);
    expect(seen).toMatchObject({ outcome: NOTHING, left: 0 });
    expect(seen.text).toContain('NestedHostError: QEMU ended with 1');
    expect(await outcomeOf(died, died, NOTHING)).toMatchObject({ outcome: died, left: 1 });
  });
});
