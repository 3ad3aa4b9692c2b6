/** A store on a file system without space. */
import { execFile } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { expect } from 'vitest';
import { requiresRoot } from '../support/requires.ts';
import { temporaryDir } from '../support/store.ts';

const UNSHARE = ['--mount', '--propagation', 'private'];

requiresRoot().it('store: a full disk is disk_full, leaves no file, and can be cleared', async () => {
  const dir = dirname(await temporaryDir());
  await mkdir(dir, { recursive: true });
  const fixture = join(import.meta.dirname, '../fixtures/store-full-disk.ts');
  const run = promisify(execFile)('unshare', [...UNSHARE, process.execPath, fixture, dir]);
  expect(JSON.parse((await run).stdout)).toEqual({
    tooLarge: 'disk_full',
    afterTooLarge: [],
    seen: ['disk_full', 'done'],
    left: [],
    rowsUntilFull: 'disk_full',
    readable: true,
    removedWhileFull: 'done',
    takenAfterwards: 'done',
  });
});
