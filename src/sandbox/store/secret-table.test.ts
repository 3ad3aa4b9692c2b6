import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { expect, it } from 'vitest';
import { temporaryDir } from '../../../test/support/store.ts';
import { systemClock } from '../../base/clock.ts';
import { silentLog } from '../../base/log.ts';
import { SecretValue } from '../../base/request/secret-value.ts';
import { openStore, type Store } from './store.ts';

const VALUE = 'sk-live-0123456789abcdef';
const value = new SecretValue(VALUE);

async function open(): Promise<{ store: Store; dir: string }> {
  const dir = await temporaryDir();
  return { dir, store: await openStore({ dir, keyPath: `${dir}.key`, clock: systemClock, log: silentLog }) };
}

const change = (dir: string, sql: string): void => {
  const db = new DatabaseSync(join(dir, 'store.db'));
  db.exec(sql);
  db.close();
};

it('SecretTable: a value comes back, and no file of the store contains it', async () => {
  const { store, dir } = await open();
  await using _store = store;
  await store.secrets.set('acme/KEY', value, false);
  expect((await store.secrets.value('acme/KEY'))?.reveal()).toBe(VALUE);
  expect(JSON.stringify(await store.secrets.list())).not.toContain(VALUE);
  for (const name of readdirSync(dir).filter((one) => one.startsWith('store.db'))) {
    expect(readFileSync(join(dir, name)).includes(VALUE)).toBe(false);
  }
});

it('SecretTable: an altered value, or one moved to another name, is no value', async () => {
  const { store, dir } = await open();
  await using _store = store;
  await store.secrets.set('acme/KEY', value, false);
  await store.secrets.set('other/KEY', new SecretValue('other-0123456789abcdef'), false);
  change(dir, `UPDATE secrets SET valueJson = (SELECT valueJson FROM secrets WHERE name = 'acme/KEY')`);
  expect(await store.secrets.value('other/KEY')).toBeNull();
  change(dir, `UPDATE secrets SET valueJson = replace(valueJson, '"sealed":"', '"sealed":"AAAA')`);
  expect(await store.secrets.value('acme/KEY')).toBeNull();
});

it('SecretTable: a name is unique unless its value is replaced', async () => {
  const { store } = await open();
  await using _store = store;
  await store.secrets.set('KEY', value, false);
  await expect(store.secrets.set('KEY', value, false)).rejects.toMatchObject({ code: 'name_taken' });
  await store.secrets.set('KEY', new SecretValue('new-0123456789abcdef'), true);
  expect((await store.secrets.value('KEY'))?.reveal()).toBe('new-0123456789abcdef');
  await store.secrets.remove('KEY');
  expect(await store.secrets.value('KEY')).toBeNull();
  await expect(store.secrets.remove('KEY')).rejects.toMatchObject({ code: 'not_found' });
});
