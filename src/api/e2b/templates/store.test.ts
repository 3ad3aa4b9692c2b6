import { randomUUID } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { silentLog } from '../../../base/log.ts';
import { type StoredTemplate, TemplateStore } from './store.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-e2b-store-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const template = (id: string): StoredTemplate => ({
  id,
  name: id,
  isPublic: false,
  createdAtMs: 1,
  updatedAtMs: 1,
  builds: [],
  tags: [],
});

describe('TemplateStore', () => {
  it('a change that can’t be written has no effect, and the next one works', async () => {
    const path = join(dir, 'state', 'one.json');
    const store = await TemplateStore.open(path, silentLog);
    await store.put(template('a'));
    rmSync(join(dir, 'state'), { recursive: true });
    await expect(store.put(template('b'))).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(store.remove('a')).rejects.toMatchObject({ code: 'ENOENT' });
    expect(store.all.map(({ id }) => id)).toEqual(['a']);
    mkdirSync(join(dir, 'state'));
    await Promise.all([store.put(template('c')), store.remove('a')]);
    const again = await TemplateStore.open(path, silentLog);
    expect(again.all.map(({ id }) => id)).toEqual(['c']);
  });

  it('moves a damaged file aside, but not one that can’t be read', async () => {
    const path = join(dir, 'one.json');
    writeFileSync(path, '{');
    expect((await TemplateStore.open(path, silentLog)).all).toEqual([]);
    expect(readdirSync(dir)).toEqual(['one.json.damaged']);
    mkdirSync(path);
    await expect(TemplateStore.open(path, silentLog)).rejects.toMatchObject({ code: 'EISDIR' });
    expect(readdirSync(dir)).toContain('one.json');
  });
});

it('TemplateStore.bytes: equal builds count once, those of earlier versions with their RAM', async () => {
  const path = join(dir, 'acme.json');
  const build = (key: string | null) => ({
    id: randomUUID(),
    createdAtMs: 1,
    finishedAtMs: 2,
    size: { cpus: 1, memoryMib: 3, diskMib: 16 },
    start: null,
    ...(key === null ? {} : { files: { key, bytes: 100 } }),
  });
  const builds = ['a', 'a', 'b', null].map(build);
  await (await TemplateStore.open(path, silentLog)).put({ ...template('t'), builds });
  expect((await TemplateStore.open(path, silentLog)).bytes).toBe(200 + 3 * 1024 ** 2);
});
