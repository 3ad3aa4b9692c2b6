import { describe, expect, it } from 'vitest';
import { describeError } from '../../../base/errors.ts';
import { parse } from './parse.ts';
import { createRequest, sandboxChange } from './request.ts';

const invalid = (message: string) => expect.objectContaining({ code: 'spec_invalid', message });

describe('parse', () => {
  it('a field that is undefined is omitted, at every depth', () => {
    const given = { cpus: undefined, models: { allow: undefined, budget: { requests: 3, windowMs: undefined } } };
    expect(parse(createRequest, given)).toStrictEqual({ models: { budget: { requests: 3 } } });
  });
  it.each([
    ['a field of a list', { models: { allow: ['a', 'b\nc'] } }, 'models.allow.1: a model name has'],
    [
      'a key by its own fault, without the key',
      { models: { aliases: { 'a\nb': 'c' } } },
      'models.aliases: a model name',
    ],
    ['a wrong type', { memoryMib: '512' }, 'memoryMib: expected a whole number from 128 to 65536'],
    ['an unknown field', { network: { mode: 'open', ports: [] } }, 'network: Unrecognized key: "ports"'],
  ])('the error names %s', (_what, given, message) => {
    expect(() => parse(createRequest, given)).toThrow(invalid(expect.stringContaining(`sandbox option ${message}`)));
  });
  it('the field of a part comes first', () => {
    const { budget } = sandboxChange.shape.models.unwrap().shape;
    const message = 'sandbox option models.budget: a window needs a limit of tokens, requests or cost';
    expect(() => parse(budget, { windowMs: 1000 }, 'models.budget')).toThrow(invalid(message));
  });
  it('an error never has the value of a secret', () => {
    const secrets = [{ name: 'KEY', hosts: ['a.example'], value: 'sk-0123'.repeat(1000) }];
    for (const value of [{ secrets }, { secrets: [{ ...secrets[0], value: 8_675_309 }] }]) {
      let error: unknown;
      try {
        parse(createRequest, value);
      } catch (caught) {
        error = caught;
      }
      expect(error).toMatchObject({ code: 'spec_invalid' });
      expect(describeError(error)).not.toMatch(/sk-0123|8675309/);
    }
  });
});
