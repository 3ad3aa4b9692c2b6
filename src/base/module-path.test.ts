import { expect, it } from 'vitest';
import { modulePath } from './module-path.ts';

it('modulePath: uses the extension of the starting module', () => {
  expect(modulePath('./worker.ts', 'file:///a/src/x/host.ts')).toBe('/a/src/x/worker.ts');
  expect(modulePath('./worker.ts', 'file:///a/dist/x/host.js')).toBe('/a/dist/x/worker.js');
  expect(modulePath('../y/z.ts', 'file:///a%20b/dist/x/host.js')).toBe('/a b/dist/y/z.js');
});
