import { stripVTControlCharacters } from 'node:util';
import { expect, it } from 'vitest';
import { CodedError } from '../base/errors.ts';
import { productName } from '../base/package-dir.ts';
import { failureJson, failureText } from './failure.ts';

const text = (error: unknown): string => stripVTControlCharacters(failureText(error));

it('a failure has its remedy; a fault of ours names version and commit; one of the machine does neither', () => {
  expect(text(new CodedError('x', 'no space', { remedy: 'free some' }))).toBe('neurovisor: no space\nfix: free some');
  const report = `this is a fault of NeuroVisor ${productName()}; please report it`;
  expect(text(new TypeError('x is undefined'))).toBe(`neurovisor: x is undefined\n${report}`);
  expect(failureJson(new TypeError('x is undefined'))).toMatchObject({ error: { code: 'internal', remedy: report } });
  expect(text(Object.assign(new Error('open: no such file'), { code: 'ENOENT' }))).toBe(
    'neurovisor: open: no such file',
  );
  expect(text(new Error('interrupted'))).toBe('neurovisor: interrupted');
  const offline = new TypeError('fetch failed', { cause: new Error('no route') });
  expect(text(offline)).toBe('neurovisor: fetch failed: no route');
  expect(text(new CodedError('x', 'no'))).toBe('neurovisor: no');
});
