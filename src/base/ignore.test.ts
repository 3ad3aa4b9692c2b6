import { describe, expect, it } from 'vitest';
import { CodedError } from './errors.ts';
import { addIgnored, ignore, ignoredErrors, takeIgnored } from './ignore.ts';

const counted = (code: string): number =>
  ignoredErrors.samples().find(({ labels }) => labels['code'] === code)?.value ?? 0;

describe('ignore', () => {
  it('ignore: counts each error by its code, and one without a code as `none`', () => {
    const before = { gone: counted('vm_gone'), none: counted('none') };
    ignore(new CodedError('vm_gone', 'the VM is gone'), 'a test');
    ignore(new CodedError('vm_gone', 'the VM is gone'), 'another reason');
    ignore('not an error', 'a test');
    expect(counted('vm_gone')).toBe(before.gone + 2);
    expect(counted('none')).toBe(before.none + 1);
  });

  it('takeIgnored: returns errors since the last call, and addIgnored counts them', () => {
    takeIgnored();
    expect(takeIgnored()).toBeUndefined();
    ignore({ code: 'taken' }, 'a test');
    ignore({ code: 'taken' }, 'a test');
    const counts = takeIgnored() ?? new Map();
    expect(counts).toEqual(new Map([['taken', 2]]));
    ignore({ code: 'taken' }, 'a test');
    expect(takeIgnored()).toEqual(new Map([['taken', 1]]));
    addIgnored(counts);
    expect(counted('taken')).toBe(5);
  });

  it('ignore: bounds the number of series', () => {
    for (let n = 0; n < 1_000; n += 1) ignore({ code: `invented_${n}` }, 'a test');
    expect(ignoredErrors.samples().length).toBeLessThanOrEqual(64);
    expect(counted('other')).toBeGreaterThan(900);
  });
});
