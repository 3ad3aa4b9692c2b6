/** The requests of sandboxes in the database, which hold users' secrets. */
import { chmodSync, chownSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { expect, it } from 'vitest';
import { FakeClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { requirePrivateDir } from '../../src/machine/jail/private-dir.ts';
import { openSealing } from '../../src/sandbox/store/sealing.ts';
import { openStore } from '../../src/sandbox/store/store.ts';
import { requiresRoot } from '../support/requires.ts';
import { newSandbox } from '../support/snapshots.ts';
import { temporaryDir, temporaryStore } from '../support/store.ts';

const SECRET = 'sk-live-0123456789abcdef';
const withSecret = () => newSandbox({ requestJson: JSON.stringify({ value: SECRET }) });

/** Files of the store that contain the secret as text. */
const tellers = (dir: string): string[] =>
  readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => readFileSync(path).includes(SECRET));

it('put: no file of the store contains a secret in plain text, and the row is read back', async () => {
  const { dir, store } = await temporaryStore();
  const row = withSecret();
  await store.sandboxes.put(row);
  await store.sandboxes.put({ ...row, endsAtMs: 5 });
  expect(tellers(dir)).toEqual([]);
  expect((await store.sandboxes.get(row.id)).requestJson).toBe(row.requestJson);
  await store.close();
  const again = await temporaryStore(dir);
  expect((await again.store.sandboxes.list())[0]?.requestJson).toBe(row.requestJson);
});

/** Stands for the owner after `sudo -E`, which keeps the home of another user. */
const OTHER_USER = 1500;
const afterSudo = {
  cause: `its owner is user ${OTHER_USER}`,
  remedy: expect.stringMatching(/^Run NeuroVisor as user 1500, .*NEUROVISOR_HOME=DIR.*omit -E/),
};

requiresRoot().it('openSealing: a key of another user is refused, with the remedy', async () => {
  const dir = await temporaryDir();
  mkdirSync(dir);
  const path = join(dir, 'data.key');
  await openSealing(path);
  chmodSync(path, 0o640);
  await expect(openSealing(path)).rejects.toMatchObject({ remedy: `Run: chmod 600 ${path}` });
  chmodSync(path, 0o600);
  chownSync(path, OTHER_USER, OTHER_USER);
  await expect(openSealing(path)).rejects.toMatchObject({ code: 'store_unavailable', ...afterSudo });
});

requiresRoot().it('requirePrivateDir: refuses a jail directory of another user, with the remedy', async () => {
  const dir = await temporaryDir();
  mkdirSync(dir);
  chownSync(dir, OTHER_USER, OTHER_USER);
  expect(() => requirePrivateDir(dir)).toThrow(expect.objectContaining(afterSudo));
});

it('openStore: seals the plain rows of older versions, and overwrites them', async () => {
  const dir = await temporaryDir();
  const first = await temporaryStore(dir);
  const row = withSecret();
  await first.store.sandboxes.put(row);
  await first.store.close();
  const db = new DatabaseSync(join(dir, 'store.db'));
  db.prepare('UPDATE sandboxes SET requestJson = ?').run(row.requestJson);
  db.close();
  expect(tellers(dir)).toHaveLength(1);
  const { store } = await temporaryStore(dir);
  expect((await store.sandboxes.get(row.id)).requestJson).toBe(row.requestJson);
  await store.close();
  expect(tellers(dir)).toEqual([]);
});

it('openStore: overwrites the plain rows that an older version has removed', async () => {
  const dir = await temporaryDir();
  const first = await temporaryStore(dir);
  await first.store.sandboxes.put(newSandbox());
  await first.store.close();
  // With SQLite's old default, and without a key, as an older version left it.
  const db = new DatabaseSync(join(dir, 'store.db'));
  const filler = 'x'.repeat(20_000);
  const plain = JSON.stringify({ value: `${SECRET}${filler}${SECRET}` });
  db.exec('PRAGMA secure_delete = OFF');
  const [row] = db.prepare('SELECT * FROM sandboxes').all();
  db.prepare('UPDATE sandboxes SET requestJson = ?').run(plain);
  db.prepare('UPDATE sandboxes SET requestJson = ?').run(String(row?.['requestJson']));
  db.exec('DELETE FROM sandboxes');
  db.close();
  rmSync(`${dir}.key`);
  expect(tellers(dir)).toHaveLength(1);
  const { store } = await temporaryStore(dir);
  expect(tellers(dir)).toEqual([]);
  await store.close();
});

it('openStore: without its key, sandboxes are listed without their request, and the log says why', async () => {
  const dir = await temporaryDir();
  const first = await temporaryStore(dir);
  const row = withSecret();
  await first.store.sandboxes.put(row);
  await first.store.close();
  rmSync(`${dir}.key`);
  const warnings: unknown[] = [];
  const log = { ...silentLog, warn: (...words: unknown[]) => void warnings.push(words) };
  const store = await openStore({ dir, keyPath: `${dir}.key`, clock: new FakeClock(), log });
  expect(await store.sandboxes.get(row.id)).toEqual({ ...row, requestJson: 'null', log: undefined });
  expect(warnings).toEqual([[expect.stringContaining('another key'), { count: 1, keyPath: `${dir}.key` }]]);
  await store.close();
});
