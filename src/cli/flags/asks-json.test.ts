import { describe, expect, it } from 'vitest';
import { asksForJson } from './asks-json.ts';

describe('asksForJson', () => {
  it.each([
    ['ls -o json', true],
    ['ls --output json', true],
    ['ls --output=json', true],
    ['ls -ojson', true],
    ['-o json frob', true],
    ['ls', false],
    ['ls -o text', false],
    ['ls -o', false],
    // An option of the program, not of this command.
    ['exec x -- jq -o json', false],
  ])('%s: %s', (line, expected) => {
    expect(asksForJson(line.split(' '))).toBe(expected);
  });
});
