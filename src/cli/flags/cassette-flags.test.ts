import { resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cassetteChoice } from './cassette-flags.ts';

describe('cassetteChoice', () => {
  const fromEnv = { mode: 'replay', path: '/env.json' } as const;
  it.each([
    [{}, null, null],
    [{}, fromEnv, fromEnv],
    [{ record: 'a.json' }, fromEnv, { mode: 'record', path: resolve('a.json') }],
    [{ replay: '/etc/hosts' }, null, { mode: 'replay', path: '/etc/hosts' }],
  ] as const)('%j, and the environment %j: %j', (flags, cassette, choice) => {
    expect(cassetteChoice(flags, { cassette })).toEqual(choice);
  });

  it.each([
    [{ record: 'a', replay: 'a' }, 'mutually exclusive'],
    [{ record: '' }, '--record needs the path of a file'],
    [{ replay: '/nothing.json' }, 'the cassette /nothing.json does not exist'],
    [{ replay: '' }, '--replay needs the path of a file'],
  ])('%j: %s', (flags, message) => {
    expect(() => cassetteChoice(flags, { cassette: null })).toThrow(message);
  });
});
