import { expect, it } from 'vitest';
import { keysOf } from './keys.ts';

it('keysOf: separates keys that arrive together', () => {
  expect(keysOf('\x1b[B\x1b[B\x1b[6~s')).toEqual(['down', 'down', 'page-down', 'sort']);
});

it('keysOf: parses cursor keys in both terminal modes, and Ctrl-C', () => {
  expect(keysOf('\x1bOA\x1b[A\x1b[H\x1b[4~\x03')).toEqual(['up', 'up', 'home', 'end', 'quit']);
});

it('keysOf: ignores unknown keys and partial sequences', () => {
  expect(keysOf('ABHF\x1b[1;5Cxyz\x1b[\x1b[s')).toEqual([]);
});
