import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { readStateFile, STATE_BYTES_MAX } from './snapshot.ts';

let dir: string;
let path: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-state-'));
  path = join(dir, 'state');
});
afterEach(() => rmSync(dir, { recursive: true }));

it('readStateFile: returns the bytes of a state', async () => {
  writeFileSync(path, 'state');
  expect((await readStateFile(path)).toString()).toBe('state');
});

it('readStateFile: refuses a file that is too large, and one larger than its size', async () => {
  writeFileSync(path, '');
  truncateSync(path, STATE_BYTES_MAX + 1);
  await expect(readStateFile(path)).rejects.toMatchObject({ code: 'snapshot_refused' });
  // Such files have size 0 but contents, like a file that grows after the first look.
  await expect(readStateFile('/proc/self/status')).rejects.toMatchObject({ code: 'snapshot_refused' });
});
