import { describe, expect, it } from 'vitest';
import { nearNames } from './near-names.ts';

describe('nearNames', () => {
  const names = ['data', 'data-small', 'agent', 'web', 'ml'];

  it('finds a name with a typo', () => {
    expect(nearNames('dtaa', names)).toEqual(['data']);
    expect(nearNames('agnet', names)).toEqual(['agent']);
  });

  it('finds names that begin with the text, nearest first', () => {
    expect(nearNames('dat', names)).toEqual(['data', 'data-small']);
  });

  it('finds nothing distant, and nothing for short texts that share no letter', () => {
    expect(nearNames('production', names)).toEqual([]);
    expect(nearNames('xy', names)).toEqual([]);
    expect(nearNames('', names)).toEqual([]);
  });

  it('finds no other word of the same length', () => {
    expect(nearNames('name', ['rate', 'same'])).toEqual(['same']);
    expect(nearNames('memroy', ['memory'])).toEqual(['memory']);
    expect(nearNames('crp', ['crop', 'cp', 'exec'])).toEqual(['cp', 'crop']);
  });

  it('is quick for long texts', () => {
    expect(nearNames('a'.repeat(1_000_000), names)).toEqual([]);
  });
});
