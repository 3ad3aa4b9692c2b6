import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CodedError } from '../../base/errors.ts';
import { parseRequirement, splitRequirements } from './requirement.ts';

const word = fc.stringMatching(/^[a-z][a-z0-9]{0,8}$/);
const version = fc.stringMatching(/^[0-9]{1,3}(\.[0-9]{1,2}){0,2}$/);
const operator = fc.constantFrom('==', '>=', '<=', '<', '>', '!=', '~=');
const requirement = fc
  .tuple(word, fc.array(word, { maxLength: 3 }), fc.array(fc.tuple(operator, version)))
  .map(([name, extras, specifiers]) =>
    [
      name,
      extras.length === 0 ? '' : `[${extras.join(',')}]`,
      specifiers.map(([op, number]) => `${op}${number}`).join(','),
    ].join(''),
  );

describe('requirements', () => {
  it('any text is refused, or a requirement whose text is its own normal form', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: 'binary' }), requirement), (text) => {
        try {
          const parsed = parseRequirement(text);
          expect(parsed.text).toMatch(/^[a-z0-9][^\n\r$#@]*$/);
          expect(parsed.text).not.toMatch(/\s-(?!-hash=)/);
          expect(parseRequirement(parsed.text)).toEqual(parsed);
        } catch (error) {
          if (!(error instanceof CodedError)) throw error;
        }
      }),
    );
  });

  it('a list in one flag equals the list', () => {
    fc.assert(
      fc.property(fc.array(requirement, { minLength: 1 }), (list) => {
        expect(splitRequirements(list.join(', '))).toEqual(list);
      }),
    );
  });
});
