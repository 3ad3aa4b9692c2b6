import { expect, it } from 'vitest';
import { placeOf } from './place.ts';

const ROOT = '/opt/nv/';
const stack = (...frames: string[]): string => ['Error', ...frames.map((frame) => `    at ${frame}`)].join('\n');

it.each([
  [
    'the innermost frame of our own code',
    ['<anonymous>:4:21', 'JSON.parse (<anonymous>)', 'check (file:///opt/nv/node_modules/zod/v4.js:9:1)'],
    ['Body.judge (file:///opt/nv/src/api/body.ts:7:5)', 'outer (file:///opt/nv/src/b.ts:1:1)'],
    'Body.judge (src/api/body.ts:7:5)',
  ],
  ['a frame without a function', ['file:///opt/nv/src/api/body.ts:7:5'], [], 'src/api/body.ts:7:5'],
  [
    'a package, if our code is not on the stack',
    ['emit (node:events:508:28)'],
    ['run (file:///opt/nv/node_modules/a/b.js:2:3)'],
    'emit (node:events:508:28)',
  ],
  ['a package elsewhere', ['run (file:///srv/node_modules/a/b.js:2:3)'], [], 'run (/node_modules/a/b.js:2:3)'],
  ['nothing', ['<anonymous>:4:21', 'JSON.parse (<anonymous>)'], [], null],
])('placeOf: %s', (_, inner, outer, place) => {
  expect(placeOf(stack(...inner, ...outer), ROOT)).toBe(place);
});

it('placeOf: is bounded', () => {
  expect(placeOf(stack(`${'x'.repeat(10_000)} (file:///opt/nv/src/a.ts:1:1)`), ROOT)).toHaveLength(200);
});
