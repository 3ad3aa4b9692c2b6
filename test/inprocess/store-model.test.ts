/** The store against a naive model: two stores on one directory, any order of calls. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { FakeClock } from '../../src/base/clock.ts';
import type { SandboxRow } from '../../src/sandbox/store/sandbox-table.ts';
import type { OpenSnapshot } from '../../src/sandbox/store/snapshot-table.ts';
import type { Store } from '../../src/sandbox/store/store.ts';
import {
  holdsSeed,
  named,
  newSandbox,
  onDisk,
  pauseSandbox,
  takeSnapshot,
  writeSnapshot,
} from '../support/snapshots.ts';
import { temporaryDir, temporaryStore } from '../support/store.ts';

const RUNS = 40;
const NAMES = ['red', 'green', 'blue'];

interface Model {
  /** Oldest first. */
  readonly snapshots: { id: string; seed: number; name: string | null; pauses: string | null }[];
  readonly sandboxes: Map<string, SandboxRow>;
  /** Seeds of the open snapshots. */
  readonly held: number[];
}

interface Real {
  readonly dir: string;
  readonly stores: Store[];
  readonly held: OpenSnapshot[];
}

type Step = fc.AsyncCommand<Model, Real>;
const pick = <T>(list: readonly T[], at: number): T | undefined => list[at % list.length];
const dropPauses = (model: Model, sandboxId: string): void => {
  const at = model.snapshots.findIndex(({ pauses }) => pauses === sandboxId);
  if (at >= 0) model.snapshots.splice(at, 1);
};

/** Runs a step, then compares everything visible through either store and on disk. */
function step(text: string, run: (model: Model, real: Real, store: Store) => Promise<void>, at: number): Step {
  return {
    check: () => true,
    toString: () => `${text} in store ${at % 2}`,
    async run(model, real) {
      await run(model, real, pick(real.stores, at) as Store);
      const other = pick(real.stores, at + 1) as Store;
      const found = (await other.snapshots.list()).map(({ id, name }) => ({ id, name }));
      expect(found.reverse()).toEqual(model.snapshots.map(({ id, name }) => ({ id, name })));
      const rows = await other.sandboxes.list();
      expect(new Map(rows.map((row) => [row.id, row]))).toEqual(model.sandboxes);
      const disk = await onDisk(real.dir);
      const contents = model.snapshots.flatMap(({ seed }) => [`r${seed}`, `s${seed}`, `d${seed % 2}`]);
      expect(disk.files).toHaveLength(new Set(contents).size);
      expect(disk.files).toEqual(await named(other));
      expect(disk.trash).toEqual([]);
    },
  };
}

const steps = (at: number, n: number, seed: number): Step[] => [
  step(
    `take ${seed} as ${n % 4}`,
    async (model, _, store) => {
      const name = NAMES[n % 4] ?? null;
      const taken = name !== null && model.snapshots.some((snapshot) => snapshot.name === name);
      const take = takeSnapshot(store, seed, { name });
      if (taken) await expect(take).rejects.toMatchObject({ code: 'name_taken' });
      else model.snapshots.push({ id: await take, seed, name, pauses: null });
    },
    at,
  ),
  step(
    `pause ${n} with ${seed}`,
    async (model, _, store) => {
      const known = pick([...model.sandboxes.values()], n);
      const row = n % 3 === 0 || known === undefined ? newSandbox() : known;
      const paused = await pauseSandbox(store, seed, row);
      dropPauses(model, row.id);
      model.sandboxes.set(row.id, paused);
      const id = paused.pausedSnapshotId ?? '';
      model.snapshots.push({ id, seed, name: null, pauses: row.id });
    },
    at,
  ),
  step(
    `put ${n}`,
    async (model, _, store) => {
      const known = pick([...model.sandboxes.values()], n) ?? newSandbox();
      const row = { ...known, status: 'running' as const, pausedSnapshotId: null, endsAtMs: n };
      await store.sandboxes.put(row);
      model.sandboxes.set(row.id, row);
      dropPauses(model, row.id);
    },
    at,
  ),
  step(
    `remove sandbox ${n}`,
    async (model, _, store) => {
      const id = pick([...model.sandboxes.keys()], n);
      if (id === undefined) return;
      await store.sandboxes.remove(id);
      model.sandboxes.delete(id);
      dropPauses(model, id);
    },
    at,
  ),
  step(
    `remove snapshot ${n}`,
    async (model, _, store) => {
      const snapshot = pick(model.snapshots, n);
      if (snapshot === undefined) return;
      const removed = store.snapshots.remove(snapshot.name ?? snapshot.id);
      if (snapshot.pauses !== null) {
        await expect(removed).rejects.toMatchObject({ code: 'in_use' });
        return;
      }
      await removed;
      model.snapshots.splice(model.snapshots.indexOf(snapshot), 1);
    },
    at,
  ),
  step(
    `open ${n}, and hold it`,
    async (model, real, store) => {
      const snapshot = pick(model.snapshots, n);
      if (snapshot === undefined) return;
      real.held.push(await store.snapshots.open(snapshot.name ?? snapshot.id));
      model.held.push(snapshot.seed);
    },
    at,
  ),
  step(
    'read and release all that is held',
    async (model, real) => {
      for (const [i, opened] of real.held.entries()) {
        expect(await holdsSeed(opened.paths, model.held[i] ?? -1)).toBe(true);
        await opened.release();
      }
      real.held.length = 0;
      model.held.length = 0;
    },
    at,
  ),
  step(
    `stage ${seed}, collect in the other, then ${n % 2 ? 'discard' : 'forget'} it`,
    async (_, real, store) => {
      const staging = await store.snapshots.stage();
      await staging.write((paths) => writeSnapshot(paths, seed));
      const collected = await pick(real.stores, at + 1)?.collect();
      expect(collected).toEqual({ files: 0, bytes: 0, abandoned: 0 });
      if (n % 2 === 1) await staging.discard();
    },
    at,
  ),
  step(
    'close and open again',
    async (_, real, store) => {
      await store.close();
      real.stores[at % 2] = (await temporaryStore(real.dir)).store;
    },
    at,
  ),
];

it('store: equals the model after each step, and has exactly the files that rows name', async () => {
  const parameters = fc.tuple(fc.nat(1), fc.nat(20), fc.nat(3));
  const anyStep = (which: number) => parameters.map((p) => steps(...p)[which] as Step);
  const kinds = steps(0, 0, 0).map((_, which) => anyStep(which));
  await fc.assert(
    fc.asyncProperty(fc.commands(kinds, { maxCommands: 30, size: 'max' }), async (commands) => {
      const dir = await temporaryDir();
      const clock = new FakeClock();
      const first = await temporaryStore(dir, clock);
      const second = await temporaryStore(dir, clock);
      const real: Real = { dir, stores: [first.store, second.store], held: [] };
      const model: Model = { snapshots: [], sandboxes: new Map(), held: [] };
      try {
        await fc.asyncModelRun(() => ({ model, real }), commands);
      } finally {
        for (const opened of real.held) await opened.release();
        for (const store of real.stores) await store.close();
      }
      expect(await onDisk(dir)).toMatchObject({ staging: [], trash: [] });
    }),
    { numRuns: RUNS },
  );
});
