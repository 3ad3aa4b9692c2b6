/** Look-ups of one sandbox among many paused ones: what they read of the store. No VMs. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { StatementSync } from 'node:sqlite';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { newSandboxId } from '../../src/base/ids.ts';
import { FakeHost } from '../support/fake-host.ts';

/** Ids of the rows whose requests were unsealed. */
const unsealed: string[] = [];
vi.mock(import('../../src/sandbox/store/sealing.ts'), async (original) => {
  const real = await original();
  return {
    ...real,
    openSealing: async (keyPath) => {
      const sealing = await real.openSealing(keyPath);
      return {
        ...sealing,
        unseal: (json, id) => {
          unsealed.push(id);
          return sealing.unseal(json, id);
        },
      };
    },
  };
});

const PAUSED = 12;

describe('LocalControlPlane: a look-up by id', () => {
  const ids: string[] = [];
  let dir: string;
  let host: FakeHost;
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
    unsealed.length = 0;
    return () => host[Symbol.asyncDispose]();
  });
  afterAll(async () => {
    vi.restoreAllMocks();
    await rm(dir, { recursive: true, force: true });
  });

  it('unseals only the row of a paused or ended sandbox, also once the sandbox is in memory', async () => {
    const [paused = '', ended = ''] = [ids[3], ids.at(-1)];
    for (const id of [paused, paused, ended]) {
      unsealed.length = 0;
      await host.control.get(id);
      expect(unsealed).toEqual([id]);
    }
    unsealed.length = 0;
    await expect(host.control.resume(ended)).rejects.toMatchObject({ code: 'gone' });
    expect(unsealed).toEqual([ended]);
  });

  it('unseals nothing for an id that is unknown or not valid', async () => {
    for (const id of [newSandboxId(), 'x', '']) {
      await expect(host.control.get(id)).rejects.toMatchObject({ code: 'not_found' });
      await expect(host.control.guest(id)).rejects.toMatchObject({ code: 'not_found' });
    }
    expect(unsealed).toEqual([]);
  });

  it('unseals all rows for a list', async () => {
    expect(await host.control.list()).toHaveLength(PAUSED);
    expect(unsealed.toSorted()).toEqual(ids.slice(0, PAUSED).toSorted());
  });

  it('resume and pause read no rows of other sandboxes and snapshots', async () => {
    const [id = ''] = ids;
    const all = vi.spyOn(StatementSync.prototype, 'all');
    await host.control.resume(id);
    await host.control.pause(id, 'disk');
    const rows = all.mock.results.flatMap(({ value }) => value as { id?: string }[]);
    expect(rows.filter((row) => ids.includes(row.id ?? '') || 'specJson' in row)).toEqual([]);
    expect(new Set(unsealed)).toEqual(new Set([id]));
  });
});
