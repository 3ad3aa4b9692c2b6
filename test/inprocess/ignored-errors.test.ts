/** Errors that threads ignore, on the main thread's counter. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { ignoredErrors } from '../../src/base/ignore.ts';
import { cloneSparse } from '../../src/sys/sparse-threads.ts';

let dir = '';

beforeEach(() => {
  // A tmpfs: clones of files fail there, which the copying thread ignores.
  dir = mkdtempSync('/dev/shm/nv-ignored-');
});

afterEach(() => rmSync(dir, { recursive: true }));

const total = (): number => ignoredErrors.samples().reduce((sum, { value }) => sum + value, 0);

it('ignore: errors that the copying thread ignores are counted on the main thread', async () => {
  writeFileSync(join(dir, 'from'), 'data');
  const before = total();
  await cloneSparse(join(dir, 'from'), join(dir, 'to'));
  expect(total()).toBe(before + 1);
});
