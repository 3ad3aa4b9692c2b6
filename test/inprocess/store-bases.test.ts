/** RAM that snapshots need and share, in the store. */
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../src/base/clock.ts';
import type { NewSnapshot } from '../../src/sandbox/store/snapshot.ts';
import type { Store } from '../../src/sandbox/store/store.ts';
import { digestSparse } from '../../src/sys/sparse.ts';
import {
  named,
  newSandbox,
  newSnapshot,
  onDisk,
  takeSnapshot,
  writeSnapshot,
  writeSparse,
} from '../support/snapshots.ts';
import { temporaryDir, temporaryStore } from '../support/store.ts';

const BASE_BYTES = 1024 * 1024;

async function base(seed = 7): Promise<{ digest: string; copy: (to: string) => Promise<void> }> {
  const path = join(dirname(await temporaryDir()), 'base');
  const write = (to: string) => writeSparse(to, BASE_BYTES, Buffer.alloc(4096, seed), 8192);
  await write(path);
  return { digest: await digestSparse(path), copy: write };
}

/** Takes a snapshot with a base. @returns its row, and how often the base was written */
async function take(
  store: Store,
  seed: number,
  { digest, copy }: Awaited<ReturnType<typeof base>>,
  change: Partial<NewSnapshot> = {},
  prepare: 'prepared' | 'damaged' | null = null,
) {
  await using staging = await store.snapshots.stage();
  let copies = 0;
  await staging.keepBase(digest, async (to) => {
    copies += 1;
    await copy(to);
  });
  await staging.write(async (paths) => {
    await writeSnapshot({ ...paths, ram: `${paths.ram}-unused` }, seed);
    await writeFile(paths.difference, `difference ${seed}`);
  });
  const snapshot = newSnapshot(seed, { base: digest, ...change });
  if (prepare === 'damaged') await writeFile(staging.paths.state, 'another state');
  if (prepare !== null) await staging.prepare(snapshot);
  if (change.kind !== 'pause') return { row: await staging.commit(snapshot), copies };
  const sandbox = newSandbox({ status: 'paused', pausedSnapshotId: snapshot.id });
  return { row: await staging.commit(snapshot, sandbox), copies, sandbox };
}

describe('store: bases', () => {
  it('a base is written once, and removed with the last snapshot that needs it', async () => {
    const { dir, store } = await temporaryStore();
    const of = await base();
    const [one, two] = [await take(store, 1, of), await take(store, 2, of)];
    expect([one.copies, two.copies]).toEqual([1, 0]);
    expect(one.row.files).toMatchObject({ base: of.digest });
    expect(one.row.files).not.toHaveProperty('ram');
    expect((await onDisk(dir)).files).toEqual(await named(store));
    await store.snapshots.remove(one.row.id);
    expect((await onDisk(dir)).files).toContain(of.digest);
    await using open = await store.snapshots.open(two.row.id);
    expect(await readFile(open.paths.difference ?? '', 'utf8')).toBe('difference 2');
    expect(await digestSparse(open.paths.base ?? '')).toBe(of.digest);
    await store.snapshots.remove(two.row.id);
    expect(await onDisk(dir)).toEqual({ files: [], staging: [expect.any(String)], trash: [] });
    expect((await take(store, 3, of)).copies).toBe(1);
  });

  it('a base is written once by concurrent saves, each of which may fail', async () => {
    const { dir, store } = await temporaryStore();
    const of = await base();
    const held = Promise.withResolvers<void>();
    let copies = 0;
    const copy = async (to: string): Promise<void> => {
      copies += 1;
      await held.promise;
      await of.copy(to);
    };
    const stage = async (seed: number) => {
      const staging = await store.snapshots.stage();
      const kept = staging.keepBase(of.digest, copy);
      const commit = async () => {
        await staging.write(async (paths) => {
          await writeSnapshot({ ...paths, ram: `${paths.ram}-unused` }, seed);
          await writeFile(paths.difference, `difference ${seed}`);
        });
        return await staging.commit(newSnapshot(seed, { base: of.digest }));
      };
      return { staging, kept, commit };
    };
    const [one, two, three] = [await stage(1), await stage(2), await stage(3)];
    held.resolve();
    await Promise.all([one, two, three].map(({ kept }) => kept));
    expect(copies).toBe(1);
    // The writer fails; the others have it nevertheless.
    await one.staging.discard();
    const rows = [await two.commit(), await three.commit()];
    expect((await onDisk(dir)).files).toEqual(await named(store));
    expect(await onDisk(dir)).toMatchObject({ trash: [] });
    for (const { id } of rows) {
      await using open = await store.snapshots.open(id);
      expect(await digestSparse(open.paths.base ?? '')).toBe(of.digest);
    }
    for (const { id } of rows) await store.snapshots.remove(id);
    expect((await onDisk(dir)).files).toEqual([]);
    // A copy that is in the store by now, or has failed, can not be linked to.
    const [four, five] = [await stage(4), await stage(5)];
    await four.kept;
    await four.commit();
    await five.kept;
    await five.commit();
    expect(copies).toBe(2);
    for (const { id } of await store.snapshots.list()) await store.snapshots.remove(id);
    const broken = await store.snapshots.stage();
    const writing = broken.keepBase(of.digest, () => Promise.reject(new Error('broken')));
    const six = await stage(6);
    await expect(writing).rejects.toThrow('broken');
    await six.kept;
    await six.commit();
    expect(copies).toBe(3);
  });

  it('prepare: the commit gives the same row, and fails for a problem found before', async () => {
    const { dir, store } = await temporaryStore();
    const of = await base();
    const { row } = await take(store, 1, of);
    await store.snapshots.remove(row.id);
    const { id, sandboxId } = row;
    const { row: again } = await take(store, 1, of, { id, sandboxId }, 'prepared');
    expect({ ...again, createdAtMs: 0 }).toEqual({ ...row, createdAtMs: 0 });
    await using open = await store.snapshots.open(again.id);
    expect(await readFile(open.paths.difference ?? '', 'utf8')).toBe('difference 1');
    await expect(take(store, 2, of, {}, 'damaged')).rejects.toMatchObject({ code: 'snapshot_damaged' });
    expect((await onDisk(dir)).files).toEqual(await named(store));
  });

  it('a base stays for a while after the last save that needed it, at most four, and not beyond the store', async () => {
    const clock = new FakeClock();
    const { dir, store } = await temporaryStore(undefined, clock, 1000);
    const made = await base();
    const saveAndRemove = async (seed: number, of = made): Promise<number> => {
      const { row, copies } = await take(store, seed, of);
      await store.snapshots.remove(row.id);
      return copies;
    };
    expect(await saveAndRemove(1)).toBe(1);
    expect((await onDisk(dir)).files).toEqual([made.digest]);
    clock.advance(999);
    expect(await saveAndRemove(2)).toBe(0);
    clock.advance(999);
    await store.collect();
    expect((await onDisk(dir)).files).toEqual([made.digest]);
    clock.advance(1);
    await store.collect();
    expect((await onDisk(dir)).files).toEqual([]);
    for (let seed = 11; seed < 16; seed += 1) await saveAndRemove(seed, await base(seed));
    await store.collect();
    expect((await onDisk(dir)).files).toHaveLength(4);
    await store.close();
    expect((await onDisk(dir)).files).toEqual([]);
  });

  it('a base counts for the oldest snapshot that needs it, unless another has it as its RAM', async () => {
    const { store } = await temporaryStore();
    const of = await base();
    const rows = [await take(store, 1, of), await take(store, 2, of)].map(({ row }) => row);
    const bytes = async (): Promise<Record<string, number>> =>
      Object.fromEntries((await store.snapshots.list()).map((row) => [row.id, row.bytes]));
    const [one = '', two = ''] = rows.map(({ id }) => id);
    const before = await bytes();
    const [first] = rows;
    expect(before[one]).toBe((first?.bytes ?? 0) + (first?.baseBytes ?? 0));
    expect(before[two]).toBe(first?.bytes);
    // For each owner.
    const ofEach = await store.snapshots.list(({ id }) => id);
    expect(ofEach.map(({ bytes: each }) => each)).toEqual([before[one], before[one]]);
    await store.snapshots.remove(one);
    expect((await bytes())[two]).toBe(before[one]);
    const whole = await takeSnapshot(store, 1);
    const { files } = await store.snapshots.get(whole);
    const third = await take(store, 3, {
      digest: files.ram ?? '',
      copy: () => Promise.reject(new Error('it is there')),
    });
    expect((await bytes())[third.row.id]).toBe(before[two]);
  });

  it('a base stays with a sandbox that was paused with it, until the sandbox ends', async () => {
    const { dir, store } = await temporaryStore();
    const of = await base();
    const { sandbox, row } = await take(store, 1, of, { kind: 'pause' });
    if (sandbox === undefined) throw new Error('no sandbox');
    await store.sandboxes.put({ ...sandbox, status: 'running', pausedSnapshotId: null });
    expect((await store.snapshots.list()).map(({ id }) => id)).not.toContain(row.id);
    expect((await onDisk(dir)).files).toEqual([of.digest]);
    const end = { cause: 'stopped', detail: '', atMs: 1 };
    await store.sandboxes.put({ ...sandbox, status: 'ended', pausedSnapshotId: null, end });
    expect((await onDisk(dir)).files).toEqual([]);
  });

  it('a base is removed when the sandbox is paused with another one, or with none', async () => {
    const { dir, store } = await temporaryStore();
    const [of, other] = [await base(7), await base(8)];
    const { sandbox } = await take(store, 1, of, { kind: 'pause' });
    if (sandbox === undefined) throw new Error('no sandbox');
    const run = () => store.sandboxes.put({ ...sandbox, status: 'running', pausedSnapshotId: null });
    const pause = async (seed: number, digest?: typeof of) => {
      await using staging = await store.snapshots.stage();
      if (digest !== undefined) await staging.keepBase(digest.digest, digest.copy);
      await staging.write(async (paths) => {
        await writeSnapshot(paths, seed);
        await writeFile(paths.difference, `difference ${seed}`);
      });
      const snapshot = newSnapshot(seed, { kind: 'pause', ...(digest === undefined ? {} : { base: digest.digest }) });
      await staging.commit(snapshot, { ...sandbox, pausedSnapshotId: snapshot.id });
      return (await onDisk(dir)).files;
    };
    await run();
    const second = await pause(2, other);
    expect(second).toContain(other.digest);
    expect(second).not.toContain(of.digest);
    await run();
    expect(await pause(3)).not.toContain(other.digest);
  });

  it('a damaged base is refused by all that have the store open, and repaired by the next save', async () => {
    const { dir, store } = await temporaryStore();
    const of = await base();
    const { row } = await take(store, 1, of);
    const path = join(dir, 'files', of.digest);
    const { store: other } = await temporaryStore(dir);
    await (await other.snapshots.open(row.id)).release();
    // Like a restored backup.
    await chmod(path, 0o400);
    for (const each of [store, other]) await (await each.snapshots.open(row.id)).release();
    await chmod(path, 0o600);
    const whole = await readFile(path);
    await writeFile(path, Buffer.alloc(whole.length));
    for (const each of [store, other]) {
      const opening = each.snapshots.open(row.id);
      await expect(opening).rejects.toMatchObject({ code: 'snapshot_damaged' });
      await (await each.snapshots.open(row.id, 'disk')).release();
    }
    expect((await take(store, 2, of)).copies).toBe(1);
    for (const each of [store, other]) await (await each.snapshots.open(row.id)).release();
  });

  it('a base that differs from its digest is refused, and nothing is stored', async () => {
    const { dir, store } = await temporaryStore();
    const { digest } = await base(1);
    const { copy } = await base(2);
    await expect(take(store, 1, { digest, copy })).rejects.toMatchObject({ code: 'snapshot_damaged' });
    expect((await onDisk(dir)).files).toEqual([]);
    expect(await store.snapshots.list()).toEqual([]);
  });

  it('a base whose last snapshot is removed between the save and its commit is kept', async () => {
    const { dir, store } = await temporaryStore();
    const of = await base();
    const { row } = await take(store, 1, of);
    await using staging = await store.snapshots.stage();
    await staging.keepBase(of.digest, () => Promise.reject(new Error('it is there')));
    await store.snapshots.remove(row.id);
    expect((await onDisk(dir)).files).toEqual([]);
    await staging.write(async (paths) => {
      await writeSnapshot({ ...paths, ram: `${paths.ram}-unused` }, 2);
      await writeFile(paths.difference, 'difference');
    });
    const { id } = await staging.commit(newSnapshot(2, { base: of.digest }));
    await using open = await store.snapshots.open(id);
    expect(await digestSparse(open.paths.base ?? '')).toBe(of.digest);
  });
});
