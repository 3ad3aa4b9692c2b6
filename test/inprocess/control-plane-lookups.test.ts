/** Look-ups of one sandbox among many paused ones: what they read of the store. No VMs. */
import { createDecipheriv, type DecipherGCM } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync, StatementSync } from 'node:sqlite';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { newSandboxId } from '../../src/base/ids.ts';
import { ENDED_MAX } from '../../src/sandbox/plane/ended.ts';
import { migrate } from '../../src/sandbox/store/schema.ts';
import { FakeHost } from '../support/fake-host.ts';

const PAUSED = 12;
const DECIPHER: DecipherGCM = Object.getPrototypeOf(
  createDecipheriv('aes-256-gcm', Buffer.alloc(32), Buffer.alloc(12)),
);

describe('LocalControlPlane: a look-up by id', () => {
  const ids: string[] = [];
  let dir: string;
  let host: FakeHost;
  /** Each unsealing binds its text to its row's id. A mock of the module would miss those that loaded it before. */
  const binding = vi.spyOn(DECIPHER, 'setAAD');
  const unsealed = (): string[] => binding.mock.calls.map(([text]) => `${text}`.split('\n')[1] ?? '');
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'nv-lookups-'));
    await using maker = await FakeHost.open({ dataDir: join(dir, 'data') });
    for (let made = 0; made < PAUSED; made += 1) {
      const { id } = await maker.control.create({ boot: true });
      await maker.control.pause(id, 'disk');
      ids.push(id);
    }
    const { id } = await maker.control.create({ boot: true });
    await maker.control.remove(id);
    ids.push(id);
  });
  beforeEach(async () => {
    host = await FakeHost.open({ dataDir: join(dir, 'data'), owner: 'two' });
    binding.mockClear();
    return () => host[Symbol.asyncDispose]();
  });
  afterAll(async () => {
    vi.restoreAllMocks();
    await rm(dir, { recursive: true, force: true });
  });

  it('unseals only the row of a paused or ended sandbox, also once the sandbox is in memory', async () => {
    const [paused = '', ended = ''] = [ids[3], ids.at(-1)];
    for (const id of [paused, paused, ended]) {
      binding.mockClear();
      await host.control.get(id);
      expect(unsealed()).toEqual([id]);
    }
    binding.mockClear();
    await expect(host.control.resume(ended)).rejects.toMatchObject({ code: 'gone' });
    expect(unsealed()).toEqual([ended]);
  });

  it('unseals nothing for an id that is unknown or not valid', async () => {
    for (const id of [newSandboxId(), 'x', '']) {
      await expect(host.control.get(id)).rejects.toMatchObject({ code: 'not_found' });
      await expect(host.control.guest(id)).rejects.toMatchObject({ code: 'not_found' });
    }
    expect(unsealed()).toEqual([]);
  });

  it('unseals all rows for the first list, and for others only those of new pauses', async () => {
    expect(await host.control.list()).toHaveLength(PAUSED);
    expect(unsealed().toSorted()).toEqual(ids.slice(0, PAUSED).toSorted());
    await using other = await FakeHost.open({ dataDir: join(dir, 'data'), owner: 'three' });
    const { id } = await other.control.create({ boot: true });
    await other.control.pause(id, 'disk');
    binding.mockClear();
    expect(await host.control.list()).toHaveLength(PAUSED + 1);
    expect(await host.control.host()).toMatchObject({ paused: PAUSED + 1 });
    expect(unsealed()).toEqual([id]);
    await other.control.remove(id);
    expect(await host.control.list()).toHaveLength(PAUSED);
  });

  it('unseals the rows of ended sandboxes once for lists of them, and only those that it shows', async () => {
    await using other = await FakeHost.open({ dataDir: join(dir, 'data'), owner: 'three' });
    const end = async (): Promise<string> => {
      const { id } = await other.control.create({ boot: true });
      await other.control.remove(id);
      return id;
    };
    for (let made = 0; made < ENDED_MAX; made += 1) await end();
    const list = (): Promise<unknown> => host.control.list({ status: ['ended'] });
    await host.control.list();
    binding.mockClear();
    expect(await list()).toHaveLength(ENDED_MAX);
    expect(unsealed()).toHaveLength(ENDED_MAX);
    const id = await end();
    binding.mockClear();
    expect(await list()).toHaveLength(ENDED_MAX);
    expect(unsealed()).toEqual([id]);
  });

  it('finds pauses and ends by indexes: what lies behind the request in a row takes the event loop', async () => {
    const plans: string[] = [];
    const prepare = vi.spyOn(DatabaseSync.prototype, 'prepare');
    await host.control.list({ status: ['paused', 'ended'] });
    const { id } = await host.control.create({ boot: true });
    await host.control.remove(id);
    const texts = new Set(prepare.mock.calls.map(([text]) => text));
    prepare.mockRestore();
    const db = new DatabaseSync(':memory:');
    migrate(db, '');
    for (const text of texts) {
      if (!/status = '|pausedSnapshotId IS NOT/.test(text)) continue;
      const steps = db.prepare(`EXPLAIN QUERY PLAN ${text}`).all();
      plans.push(...steps.map(({ detail }) => String(detail)).filter((detail) => detail.includes(' sandboxes')));
    }
    expect(new Set(plans)).toEqual(
      new Set([
        'SEARCH sandboxes USING INDEX sandboxesByPause (pausedSnapshotId>?)',
        'SEARCH sandboxes USING COVERING INDEX sandboxesByPause (pausedSnapshotId=?)',
        'SEARCH sandboxes USING COVERING INDEX sandboxesByPause (pausedSnapshotId>?)',
        'SCAN sandboxes USING INDEX sandboxesByEnd',
        'SEARCH sandboxes USING INTEGER PRIMARY KEY (rowid=?)',
      ]),
    );
  });

  it('lists of snapshots read whole rows only of new ones', async () => {
    const one = vi.spyOn(StatementSync.prototype, 'get');
    const all = vi.spyOn(StatementSync.prototype, 'all');
    const read = (): number => {
      const rows = [...one.mock.results, ...all.mock.results].flatMap(({ value }) => value as object | object[]);
      for (const spy of [one, all]) spy.mockClear();
      return rows.filter((row) => row !== undefined && 'specJson' in row).length;
    };
    await host.control.snapshots();
    expect(read()).toBe(PAUSED);
    expect((await host.control.pausedBytes()).size).toBe(PAUSED);
    expect(read()).toBe(0);
    await using other = await FakeHost.open({ dataDir: join(dir, 'data'), owner: 'three' });
    const { id } = await other.control.create({ boot: true });
    const { id: snapshot } = await other.control.snapshot(id, { name: 'new' });
    read();
    expect(await host.control.snapshots()).toMatchObject([{ id: snapshot, name: 'new' }]);
    expect(read()).toBe(1);
    await other.control.removeSnapshot(snapshot);
    await other.control.remove(id);
    expect(await host.control.snapshots()).toEqual([]);
    for (const spy of [one, all]) spy.mockRestore();
  });

  it('resume and pause read no rows of other sandboxes and snapshots', async () => {
    const [id = ''] = ids;
    const all = vi.spyOn(StatementSync.prototype, 'all');
    await host.control.resume(id);
    await host.control.pause(id, 'disk');
    const rows = all.mock.results.flatMap(({ value }) => value as { id?: string }[]);
    expect(rows.filter((row) => ids.includes(row.id ?? '') || 'specJson' in row)).toEqual([]);
    expect(new Set(unsealed())).toEqual(new Set([id]));
  });
});
