import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { addFields } from '../definitions/shared-options.ts';
import { UsageError } from '../failure.ts';
import { type Field, part, readFields } from './field.ts';

interface Asked {
  readonly size?: number;
  readonly color?: 'red' | 'blue';
  readonly names?: readonly string[];
  readonly boot?: boolean;
  readonly resume?: boolean;
  readonly inner?: { readonly depth?: number };
  readonly both?: string;
}

const FIELDS: readonly Field<Asked>[] = [
  { flags: '--the-size <n>', help: 'size', field: 'size', parse: numberOf, fallback: '3' },
  { flags: '--color <name>', help: 'color', field: 'color', choices: ['red', 'blue'] },
  { flags: '-n, --name <name>', help: 'names', field: 'names', parseAll: (texts, { HOME }) => [...texts, `${HOME}`] },
  { flags: '--boot', help: 'boot', field: 'boot', value: true },
  { flags: '--no-resume', help: 'stay', field: 'resume', value: false },
  part('inner', [{ flags: '--depth <n>', help: 'depth', field: 'depth', parse: numberOf }]),
  {
    options: [
      { flags: '--left <text>', help: 'left' },
      { flags: '--right <text>', help: 'right' },
    ],
    read: ({ left = '', right = '' }: { left?: string; right?: string }) => ({ both: left + right }),
  },
];

function numberOf(text: string): number {
  if (/^\d+$/.test(text)) return Number(text);
  throw new UsageError(`invalid number "${text}"`);
}

function read(...words: string[]): Partial<Asked> {
  const command = addFields(new Command().exitOverride(), FIELDS);
  command.parse(words, { from: 'user' });
  return readFields(FIELDS, command.opts(), { HOME: 'home' });
}

describe('a table of options', () => {
  it('sets the fields of the given options, and no others', () => {
    expect(read()).toEqual({ size: 3, both: '' });
    expect(read('--the-size', '7', '--color', 'red', '-n', 'a', '--name', 'b')).toEqual({
      size: 7,
      color: 'red',
      names: ['a', 'b', 'home'],
      both: '',
    });
  });

  it('has options without a value, parts of a request, and options that are read together', () => {
    expect(read('--boot', '--no-resume', '--depth', '2', '--left', 'a', '--right', 'b')).toEqual({
      size: 3,
      boot: true,
      resume: false,
      inner: { depth: 2 },
      both: 'ab',
    });
  });

  it('refuses an invalid value while the command line is parsed, before a daemon is asked', () => {
    const command = addFields(new Command().exitOverride(), FIELDS);
    expect(() => command.parse(['--the-size', 'x'], { from: 'user' })).toThrow('invalid number "x"');
  });
});
