/** The store on the file system of this machine. */
import { appendFile, chmod, readdir, readFile, stat, truncate, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../src/base/clock.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { END_LOG_BYTES_MAX, END_LOGS_MAX, ENDED_SANDBOXES_MAX, WAIT_MS_MAX } from '../../src/sandbox/store/limits.ts';
import { FileLock } from '../../src/sandbox/store/lock.ts';
import { SNAPSHOT_ROLES } from '../../src/sandbox/store/snapshot.ts';
import { openFds } from '../support/process-view.ts';
import {
  holdsSeed,
  named,
  newSandbox,
  newSnapshot,
  onDisk,
  pauseSandbox,
  takeSnapshot,
  writeSnapshot,
} from '../support/snapshots.ts';
import { temporaryDir, temporaryStore } from '../support/store.ts';

describe('openStore', () => {
  it('all files are private to the user', async () => {
    const { dir, store } = await temporaryStore();
    await takeSnapshot(store, 1);
    await store.sandboxes.put(newSandbox());
    expect((await stat(dir)).mode & 0o777).toBe(0o700);
    for (const name of await readdir(dir)) {
      expect(`${name} ${((await stat(join(dir, name))).mode & 0o077).toString(8)}`).toBe(`${name} 0`);
    }
    await chmod(dir, 0o755);
    await temporaryStore(dir);
    expect((await stat(dir)).mode & 0o777).toBe(0o700);
  });

  it('close: releases every descriptor and its directory; later calls fail', async () => {
    const before = openFds();
    const { dir, store } = await temporaryStore();
    const id = await takeSnapshot(store, 1);
    const staging = await store.snapshots.stage();
    await staging.write((paths) => writeSnapshot(paths, 2));
    await store.close();
    await store.close();
    expect(openFds()).toEqual(before);
    expect(await onDisk(dir)).toMatchObject({ staging: [], trash: [] });
    const closed = { code: 'store_closed' };
    await expect(store.snapshots.stage()).rejects.toMatchObject(closed);
    await expect(store.snapshots.get(id)).rejects.toMatchObject(closed);
    await expect(store.collect()).rejects.toMatchObject(closed);
    await expect(store.snapshots.open(id)).rejects.toMatchObject(closed);
    await expect(staging.commit(newSnapshot(2))).rejects.toMatchObject(closed);
  });

  it.each([
    ['text', 'this is no database, whatever its name says. '.repeat(200)],
    ['only a header', 'SQLite format 3\0'.padEnd(100, '\0')],
  ])('a database of %s: store_damaged, unchanged', async (_, text) => {
    const dir = await temporaryDir();
    await (await temporaryStore(dir)).store.close();
    await writeFile(join(dir, 'store.db'), text);
    await expect(temporaryStore(dir)).rejects.toMatchObject({
      code: 'store_damaged',
      remedy: expect.stringContaining(dir),
    });
    expect(await readFile(join(dir, 'store.db'), 'latin1')).toBe(text);
  });

  it('a database with a corrupt page: store_damaged', async () => {
    const { dir, store } = await temporaryStore();
    for (let i = 0; i < 100; i += 1) {
      await store.sandboxes.put(newSandbox({ metadata: { pad: 'x'.repeat(500) } }));
    }
    await store.close();
    const path = join(dir, 'store.db');
    const bytes = await readFile(path);
    bytes.fill(0xa5, bytes.length - 3 * 4096);
    await writeFile(path, bytes);
    await expect(temporaryStore(dir)).rejects.toMatchObject({ code: 'store_damaged' });
  });

  it('a path that is a file: store_unavailable', async () => {
    const dir = await temporaryDir();
    await writeFile(dir, '');
    await expect(temporaryStore(join(dir, 'below'))).rejects.toMatchObject({ code: 'store_unavailable' });
  });
});

describe('another process that hangs', () => {
  it('holding the lock: others wait without blocking, then store_busy; later they succeed', async () => {
    const clock = new FakeClock();
    const { dir, store } = await temporaryStore(undefined, clock);
    const id = await takeSnapshot(store, 1);
    const lock = new FileLock(join(dir, 'lock'), clock);
    await lock.run(async () => {
      const collected = store.collect().catch((error: unknown) => error);
      // Rows need no files.
      await store.sandboxes.put(newSandbox());
      clock.advance(WAIT_MS_MAX);
      expect(await collected).toMatchObject({ code: 'store_busy', remedy: expect.any(String) });
    });
    await lock.close();
    await (await store.snapshots.open(id)).release();
  });

  it('in a transaction: others wait without blocking, then store_busy; later they succeed', async () => {
    const clock = new FakeClock();
    const { dir, store } = await temporaryStore(undefined, clock);
    using other = new DatabaseSync(join(dir, 'store.db'));
    other.exec('BEGIN IMMEDIATE');
    const put = store.sandboxes.put(newSandbox()).catch((error: unknown) => error);
    expect(await store.sandboxes.list()).toEqual([]);
    clock.advance(WAIT_MS_MAX);
    expect(await put).toMatchObject({ code: 'store_busy', remedy: expect.any(String) });
    const patient = store.sandboxes.put(newSandbox());
    other.exec('ROLLBACK');
    await patient;
    expect(await store.sandboxes.list()).toHaveLength(1);
  });
});

describe('sandboxes', () => {
  it('put, get, list: complete rows, newest first, also after a restart', async () => {
    const { dir, store } = await temporaryStore();
    const end = { cause: 'killed', detail: 'by a person', atMs: 9 };
    const rows = [
      newSandbox({ createdAtMs: 3, metadata: { 'a "key"': 'välue' }, ownerJson: '{"pid":1}' }),
      newSandbox({ createdAtMs: 2, status: 'ended', end, endsAtMs: 5, parent: 'p', snapshot: 's' }),
      newSandbox({ createdAtMs: 1, status: 'paused' }),
    ];
    for (const row of rows.toReversed()) await store.sandboxes.put(row);
    expect(await store.sandboxes.list()).toEqual(rows);
    await store.close();
    const again = await temporaryStore(dir);
    expect(await again.store.sandboxes.list()).toEqual(rows);
    expect(await again.store.sandboxes.list('ended')).toEqual([rows[1]]);
    expect(await again.store.sandboxes.get(rows[2]?.id ?? '')).toEqual(rows[2]);
  });

  it('put replaces; remove forgets; unknown ids are not_found', async () => {
    const { store } = await temporaryStore();
    const row = newSandbox();
    await store.sandboxes.put(row);
    await store.sandboxes.put({ ...row, endsAtMs: 7 });
    expect(await store.sandboxes.list()).toEqual([{ ...row, endsAtMs: 7 }]);
    await store.sandboxes.remove(row.id);
    await expect(store.sandboxes.get(row.id)).rejects.toMatchObject({ code: 'not_found' });
    await expect(store.sandboxes.remove(row.id)).rejects.toMatchObject({ code: 'not_found' });
  });

  it('put: refuses an unknown snapshot and inconsistent rows', async () => {
    const { store } = await temporaryStore();
    const put = (change: Parameters<typeof newSandbox>[0]): Promise<void> => store.sandboxes.put(newSandbox(change));
    const pausedSnapshotId = newSandboxId();
    await expect(put({ status: 'paused', pausedSnapshotId })).rejects.toMatchObject({ code: 'not_found' });
    await expect(put({ status: 'ended' })).rejects.toThrow(/CHECK/);
    await expect(put({ requestJson: 'no JSON' })).rejects.toThrow(/JSON/);
    expect(await store.sandboxes.list()).toEqual([]);
  });

  it('claim: one of two wins', async () => {
    const { dir, store } = await temporaryStore();
    const other = await temporaryStore(dir);
    const { id } = newSandbox();
    await store.sandboxes.put(newSandbox({ id, ownerJson: '"dead"' }));
    const claims = await Promise.all([
      store.sandboxes.claim(id, '"dead"', '"a"'),
      other.store.sandboxes.claim(id, '"dead"', '"b"'),
    ]);
    expect(claims.filter(Boolean)).toHaveLength(1);
    expect((await store.sandboxes.get(id)).ownerJson).toBe(claims[0] ? '"a"' : '"b"');
    expect(await store.sandboxes.claim(id, null, '"c"')).toBe(false);
  });

  it('put: keeps the newest ENDED_SANDBOXES_MAX ended sandboxes, and all others', async () => {
    const { store } = await temporaryStore();
    const running = newSandbox();
    await store.sandboxes.put(running);
    const ended = (atMs: number) => newSandbox({ status: 'ended', end: { cause: 'killed', detail: '', atMs } });
    const oldest = ended(1);
    // Ends are compared as numbers: 1000 is later than 999.
    await store.sandboxes.put(ended(ENDED_SANDBOXES_MAX + 1));
    await store.sandboxes.put(oldest);
    for (let at = 2; at <= ENDED_SANDBOXES_MAX; at += 1) await store.sandboxes.put(ended(at));
    const kept = await store.sandboxes.list('ended');
    expect(kept).toHaveLength(ENDED_SANDBOXES_MAX);
    expect(kept.map((row) => row.id)).not.toContain(oldest.id);
    expect(await store.sandboxes.list('running')).toEqual([running]);
  });

  it('log: written and removed with the row, read separately', async () => {
    const { dir, store } = await temporaryStore();
    const end = { cause: 'guest-panic', detail: 'why', atMs: 1, evidence: { signal: null } };
    const log = { console: Buffer.from('a\0\ufffd'), vmm: Buffer.from('of QEMU') };
    const row = newSandbox({ status: 'ended', end });
    expect(await store.sandboxes.log(row.id)).toBeNull();
    await store.sandboxes.put({ ...row, log });
    expect(await store.sandboxes.get(row.id)).toEqual(row);
    // A row written again without a log keeps its log.
    await store.sandboxes.put(row);
    const other = await temporaryStore(dir);
    expect(await other.store.sandboxes.log(row.id)).toEqual(log);
    await store.sandboxes.remove(row.id);
    expect(await store.sandboxes.log(row.id)).toBeNull();
  });

  it('log: keeps the tail of a long one, and the newest END_LOGS_MAX', async () => {
    const { dir, store } = await temporaryStore();
    const vmm = Buffer.alloc(0);
    const put = async (console: Buffer): Promise<string> => {
      const end = { cause: 'x', detail: '', atMs: 1 };
      const row = newSandbox({ status: 'ended', end });
      await store.sandboxes.put({ ...row, log: { console, vmm } });
      return row.id;
    };
    const long = Buffer.concat([Buffer.from('lost'), Buffer.alloc(END_LOG_BYTES_MAX, 'k')]);
    const first = await put(long);
    expect(await store.sandboxes.log(first)).toEqual({ console: long.subarray(4), vmm });
    const ids: string[] = [];
    for (let n = 0; n < END_LOGS_MAX; n += 1) ids.push(await put(Buffer.from(`${n}`)));
    expect(await store.sandboxes.log(first)).toBeNull();
    expect((await store.sandboxes.log(ids[0] ?? ''))?.console.toString()).toBe('0');
    // The sandbox itself is still known.
    expect(await store.sandboxes.get(first)).toMatchObject({ status: 'ended' });
    const db = new DatabaseSync(join(dir, 'store.db'), { readOnly: true });
    expect(db.prepare('SELECT count(*) AS n FROM endLogs').get()).toEqual({ n: END_LOGS_MAX });
    db.close();
  });
});

describe('snapshots', () => {
  it('commit: the row has size, time and digests; the files are sparse and private', async () => {
    const clock = new FakeClock(5_000);
    const { dir, store } = await temporaryStore(undefined, clock);
    const id = await takeSnapshot(store, 1, { name: 'mine' });
    const row = await store.snapshots.get('mine');
    expect(row).toMatchObject({ id, name: 'mine', createdAtMs: 5_000, specJson: '{"cpus":1}' });
    expect(row).toEqual(await store.snapshots.get(id));
    expect(await onDisk(dir)).toMatchObject({ files: Object.values(row.files).sort(), trash: [] });
    let blocks = 0;
    for (const role of SNAPSHOT_ROLES) {
      const info = await stat(join(dir, 'files', row.files[role] ?? ''));
      blocks += info.blocks;
      expect(info.mode & 0o777).toBe(0o600);
    }
    expect(row.bytes).toBe(blocks * 512);
    expect(row.bytes).toBeLessThan(100_000);
  });

  it('open: returns the written content, by id and by name; ids win', async () => {
    const { store } = await temporaryStore();
    const first = await takeSnapshot(store, 1);
    const named = await takeSnapshot(store, 2, { name: 'two' });
    for (const [key, seed] of [
      [first, 1],
      [named, 2],
      ['two', 2],
    ] as const) {
      await using opened = await store.snapshots.open(key);
      expect(await holdsSeed(opened.paths, seed)).toBe(true);
    }
    await expect(takeSnapshot(store, 3, { name: first })).rejects.toMatchObject({ code: 'name_taken' });
    await expect(store.snapshots.open('none')).rejects.toMatchObject({ code: 'not_found' });
  });

  it('open: stays readable until released, even after a removal by another store', async () => {
    const { dir, store } = await temporaryStore();
    const other = await temporaryStore(dir);
    const id = await takeSnapshot(store, 1);
    const before = openFds();
    const opened = await store.snapshots.open(id);
    await other.store.snapshots.remove(id);
    expect(await onDisk(dir)).toMatchObject({ files: [], trash: [] });
    expect(await holdsSeed(opened.paths, 1)).toBe(true);
    await opened.release();
    await opened.release();
    expect(openFds()).toEqual(before);
  });

  it('open: waits for the lock, so that a row always has its files', async () => {
    const { dir, store } = await temporaryStore();
    const other = await temporaryStore(dir);
    const id = await takeSnapshot(store, 1);
    const lock = new FileLock(join(dir, 'lock'), new FakeClock());
    const pending = await lock.run(async () => {
      const opened = store.snapshots.open(id).catch((error: unknown) => error);
      const removed = other.store.snapshots.remove(id);
      await expect.poll(() => store.snapshots.list()).toEqual([]);
      return { opened, removed };
    });
    expect(await pending.opened).toMatchObject({ code: 'not_found' });
    await pending.removed;
    await lock.close();
  });

  it('commit: refuses a taken name and cleans up; the first snapshot stays', async () => {
    const { dir, store } = await temporaryStore();
    const first = await takeSnapshot(store, 1, { name: 'mine' });
    await expect(takeSnapshot(store, 2, { name: 'mine' })).rejects.toMatchObject({
      code: 'name_taken',
      remedy: expect.any(String),
    });
    // Two commits at once: the second finds the name free at first.
    const both = await Promise.allSettled([
      takeSnapshot(store, 3, { name: 'both' }),
      takeSnapshot(store, 4, { name: 'both' }),
    ]);
    expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect((await store.snapshots.list()).map((row) => row.name).sort()).toEqual(['both', 'mine']);
    expect((await onDisk(dir)).files).toEqual(await named(store));
    await (await store.snapshots.open(first)).release();
  });

  it('commit: refuses a state that differs from the VMM’s', async () => {
    const { dir, store } = await temporaryStore();
    await expect(takeSnapshot(store, 1, { stateSha256: 'f'.repeat(64) })).rejects.toMatchObject({
      code: 'snapshot_damaged',
    });
    expect(await onDisk(dir)).toMatchObject({ files: [], trash: [] });
  });

  it('commit with a missing file, write with an error: nothing is left behind', async () => {
    const { dir, store } = await temporaryStore();
    await using staging = await store.snapshots.stage();
    await expect(staging.commit(newSnapshot(1))).rejects.toMatchObject({ code: 'ENOENT' });
    await using other = await store.snapshots.stage();
    await expect(
      other.write(async (paths) => {
        await writeSnapshot(paths, 1);
        throw new Error('the VM died');
      }),
    ).rejects.toThrow('the VM died');
    const { staging: own } = await onDisk(dir);
    expect(await readdir(join(dir, 'staging', own[0] ?? ''))).toEqual([]);
  });

  it('discard: idempotent; no file is left', async () => {
    const { dir, store } = await temporaryStore();
    const staging = await store.snapshots.stage();
    await staging.write((paths) => writeSnapshot(paths, 1));
    await staging.discard();
    await staging.discard();
    const { staging: own, trash } = await onDisk(dir);
    expect(await readdir(join(dir, 'staging', own[0] ?? ''))).toEqual([]);
    expect(trash).toEqual([]);
  });

  it('remove: keeps files that other snapshots need', async () => {
    const { dir, store } = await temporaryStore();
    const twins = [await takeSnapshot(store, 1), await takeSnapshot(store, 1)];
    const third = await takeSnapshot(store, 3);
    // Three files of the twins, two of the third; its disk is theirs.
    expect((await onDisk(dir)).files).toHaveLength(5);
    await store.snapshots.remove(twins[0] ?? '');
    expect((await onDisk(dir)).files).toHaveLength(5);
    await (await store.snapshots.open(twins[1] ?? '')).release();
    await store.snapshots.remove(twins[1] ?? '');
    expect((await onDisk(dir)).files).toHaveLength(3);
    await (await store.snapshots.open(third)).release();
    await store.snapshots.remove(third);
    expect((await onDisk(dir)).files).toEqual([]);
    await expect(store.snapshots.remove(third)).rejects.toMatchObject({ code: 'not_found' });
  });

  it('disk only: one file, digested, verified and removed like others', async () => {
    const { dir, store } = await temporaryStore();
    const id = await takeSnapshot(store, 1, { stateSha256: null });
    const row = await store.snapshots.get(id);
    expect([row.stateSha256, Object.keys(row.files)]).toEqual([null, ['disk']]);
    expect((await onDisk(dir)).files).toEqual([row.files.disk]);
    await (await store.snapshots.open(id)).release();
    await flipBit(join(dir, 'files', row.files.disk));
    await expect(store.snapshots.open(id)).rejects.toMatchObject({ code: 'snapshot_damaged' });
    await store.snapshots.remove(id);
    expect((await onDisk(dir)).files).toEqual([]);
  });

  it('open, disk: its other files may be damaged or missing', async () => {
    const { dir, store } = await temporaryStore();
    const id = await takeSnapshot(store, 1);
    const { ram = '', state = '' } = (await store.snapshots.get(id)).files;
    await flipBit(join(dir, 'files', ram));
    await unlink(join(dir, 'files', state));
    await using opened = await store.snapshots.open(id, 'disk');
    expect(Object.keys(opened.paths)).toEqual(['disk']);
  });

  it('open, meanwhile: RAM that several VMs could share is verified first, the rest by `whole`', async () => {
    const { dir, store } = await temporaryStore();
    const id = await takeSnapshot(store, 1);
    const before = openFds();
    const open = () => store.snapshots.open(id, 'all', 'meanwhile');
    await using opened = await open();
    await opened.whole;
    await opened.release();
    const { files } = await store.snapshots.get(id);
    await flipBit(join(dir, 'files', files.disk));
    const damaged = await open();
    // The release waits for the checks, which read by descriptor numbers.
    await damaged.release();
    await expect(damaged.whole).rejects.toMatchObject({ code: 'snapshot_damaged' });
    await flipBit(join(dir, 'files', files.ram ?? ''));
    await expect(open()).rejects.toMatchObject({ code: 'snapshot_damaged' });
    expect(openFds()).toEqual(before);
  });

  describe.each(SNAPSHOT_ROLES)('%s', (role) => {
    it.each([
      ['a flipped bit', async (path: string) => flipBit(path)],
      ['cut off', async (path: string) => truncate(path, (await stat(path)).size - 1)],
      ['longer', async (path: string) => appendFile(path, '\0')],
      ['missing', async (path: string) => unlink(path)],
    ])('open: %s: snapshot_damaged, no descriptor left', async (_, spoil) => {
      const { dir, store } = await temporaryStore();
      const id = await takeSnapshot(store, 1, { name: 'mine' });
      await (await store.snapshots.open(id)).release();
      const before = openFds();
      const path = join(dir, 'files', (await store.snapshots.get(id)).files[role] ?? '');
      await spoil(path);
      await expect(store.snapshots.open(id)).rejects.toMatchObject({
        code: 'snapshot_damaged',
        remedy: expect.any(String),
      });
      expect(openFds()).toEqual(before);
      // The same content comes again: both are whole.
      await takeSnapshot(store, 1);
      await (await store.snapshots.open(id)).release();
      await store.snapshots.remove('mine');
    });
  });
});

describe('pause', () => {
  it('commit: snapshot and paused row appear together; the snapshot is in_use', async () => {
    const { store } = await temporaryStore();
    const paused = await pauseSandbox(store, 1);
    const snapshotId = paused.pausedSnapshotId ?? '';
    expect(await store.sandboxes.get(paused.id)).toEqual(paused);
    await expect(store.snapshots.remove(snapshotId)).rejects.toMatchObject({ code: 'in_use' });
    await store.collect();
    await (await store.snapshots.open(snapshotId)).release();
  });

  it.each(['resumed', 'removed'])('a %s sandbox: its snapshot is removed', async (how) => {
    const { dir, store } = await temporaryStore();
    const kept = await takeSnapshot(store, 1);
    const paused = await pauseSandbox(store, 2);
    if (how === 'removed') await store.sandboxes.remove(paused.id);
    else await store.sandboxes.put({ ...paused, status: 'running', pausedSnapshotId: null });
    expect((await store.snapshots.list()).map((row) => row.id)).toEqual([kept]);
    expect(await onDisk(dir)).toMatchObject({ files: await named(store), trash: [] });
  });

  it('a row that can’t be written: neither is kept', async () => {
    const { dir, store } = await temporaryStore();
    await expect(pauseSandbox(store, 1, newSandbox({ metadata: {}, requestJson: '{' }))).rejects.toThrow(/JSON/);
    expect(await store.sandboxes.list()).toEqual([]);
    expect(await store.snapshots.list()).toEqual([]);
    expect((await onDisk(dir)).files).toEqual([]);
  });
});

describe('collect', () => {
  it('removes unneeded files, keeps what another store is writing', async () => {
    const { dir, store } = await temporaryStore();
    const other = await temporaryStore(dir);
    const id = await takeSnapshot(store, 1);
    const files = (await onDisk(dir)).files;
    const staging = await other.store.snapshots.stage();
    await staging.write((paths) => writeSnapshot(paths, 2));
    await writeFile(join(dir, 'files', 'e'.repeat(64)), 'left by a killed commit');
    await writeFile(join(dir, 'trash', 'x'), 'left by a killed remove');
    expect(await store.collect()).toEqual({ files: 1, bytes: 4096, abandoned: 0 });
    expect(await onDisk(dir)).toMatchObject({ files, trash: [] });
    const second = await staging.commit(newSnapshot(2));
    for (const key of [id, second.id]) await (await store.snapshots.open(key)).release();
  });

  it('concurrent with commits and removals: removes nothing needed', async () => {
    const { dir, store } = await temporaryStore();
    const other = await temporaryStore(dir);
    // Equal content: one removes the files that the other commits.
    const churn = async (where: typeof store): Promise<void> => {
      for (let i = 0; i < 10; i += 1) {
        const id = await takeSnapshot(where, i % 2);
        await (await where.snapshots.open(id)).release();
        await where.snapshots.remove(id);
      }
    };
    const collect = async (): Promise<void> => {
      for (let i = 0; i < 40; i += 1) await other.store.collect();
    };
    await Promise.all([churn(store), churn(other.store), collect()]);
    expect(await onDisk(dir)).toMatchObject({ files: [], trash: [] });
  });
});

async function flipBit(path: string): Promise<void> {
  const bytes = await readFile(path);
  bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
  await writeFile(path, bytes);
}
