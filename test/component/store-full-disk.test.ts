/** A store on a file system without space. */
import { execFile, spawnSync } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { temporaryDir } from '../support/store.ts';

const UNSHARE = ['--mount', '--propagation', 'private'];
const reason =
  spawnSync('unshare', [...UNSHARE, 'true']).status === 0
    ? undefined
    : 'a mount namespace needs root: a full disk is not tested';

it('store: a full disk is disk_full, leaves nothing, and can be cleared', async (context) => {
  context.skip(reason !== undefined, reason);
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
