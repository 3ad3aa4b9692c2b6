import { describe, expect, it } from 'vitest';
import { BUILT_TEMPLATE_NAME, TEMPLATE_NAME } from '../../../sandbox/contract/limits.ts';
import { localNameOf, parseNewName, readName } from './names.ts';

describe('names of templates', () => {
  it.each([
    ['web', { name: 'web', tag: null }],
    ['Web_1.x:V2', { name: 'web_1.x', tag: 'V2' }],
    [' Team/Web:default ', { name: 'team/web', tag: 'default' }],
  ])('reads %j', (text, read) => expect(readName(text)).toEqual(read));

  it.each(['', ':v1', 'a:', 'a b', '../a', 'a/b/c', 'a:b:c', 'a:b/c', '-a', 'ä', `${'a'.repeat(200)}`])(
    'refuses %j',
    (text) => expect(readName(text)).toBeNull(),
  );

  it('can’t be those of our own templates', () => {
    expect(() => parseNewName('Base:v1')).toThrow('reserved');
    expect(parseNewName('baseline').name).toBe('baseline');
  });

  it('local names contain nothing that a client wrote', () => {
    const id = '5b0f8e52-5f7a-4d0e-9d0b-0d7f7b7a4c11';
    expect(localNameOf(id)).toMatch(TEMPLATE_NAME);
    expect(localNameOf(id)).toMatch(BUILT_TEMPLATE_NAME);
  });
});
