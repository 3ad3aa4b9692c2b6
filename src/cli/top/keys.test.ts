import { expect, it } from 'vitest';
import { keysOf } from './keys.ts';

it('keysOf: keys that come at once are each one', () => {
  expect(keysOf('\x1b[B\x1b[B\x1b[6~s')).toEqual(['down', 'down', 'page-down', 'sort']);
});

it('keysOf: cursor keys in either mode of the terminal, and Ctrl-C', () => {
  expect(keysOf('\x1bOA\x1b[A\x1b[H\x1b[4~\x03')).toEqual(['up', 'up', 'home', 'end', 'quit']);
});

it('keysOf: what means nothing is none, also in parts', () => {
  expect(keysOf('ABHF\x1b[1;5Cxyz\x1b[\x1b[s')).toEqual([]);
});
