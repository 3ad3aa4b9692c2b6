import { describe, expect, it } from 'vitest';
import { checkMemoryAction } from './request.ts';

describe('checkMemoryAction', () => {
  it.each(['warn', 'pause', 'snapshot', 'http://h/x', 'https://h:1/x?y', undefined])('accepts %s', (action) => {
    expect(() => checkMemoryAction(action)).not.toThrow();
  });
  it.each(['grow', '', 'kill', 'ftp://h', 'http://u:p@h/', 'http://', `http://h/${'x'.repeat(3000)}`])(
    'refuses %s',
    (action) => {
      expect(() => checkMemoryAction(action)).toThrow(expect.objectContaining({ code: 'spec_invalid' }));
    },
  );
  it('grow: needs a maximum', () => {
    expect(() => checkMemoryAction('grow')).toThrow(/a sandbox with a maximum/);
    expect(() => checkMemoryAction('grow', true)).not.toThrow();
  });
});
