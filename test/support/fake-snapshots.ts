/** The snapshots of the control plane in memory: they keep nothing. */
import { systemClock } from '../../src/base/clock.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { productName } from '../../src/base/package-dir.ts';
import type { SnapshotInfo } from '../../src/sandbox/contract/control.ts';
import { SandboxError } from '../../src/sandbox/contract/errors.ts';
import type { Snapshots } from '../../src/sandbox/contract/snapshots.ts';
import type { FakeSandboxes } from './fake-sandboxes.ts';

/** By id. */
export type Saved = Map<string, SnapshotInfo>;

export const fakeSnapshots = ({ before, live, saved }: FakeSandboxes): Snapshots => ({
  snapshot: async (id, { name = null, diskOnly = false } = {}) => {
    before('snapshot');
    const { cpus, memoryMib, diskMib, annotations } = live(id).info;
    if (name !== null && [...saved.values()].some((other) => other.name === name)) {
      throw new SandboxError('name_taken', `snapshot ${name}: another one has this name`);
    }
    const snapshot: SnapshotInfo = {
      id: newSandboxId(),
      name,
      sandbox: id,
      annotations,
      cpus,
      memoryMib,
      diskMib,
      createdAtMs: systemClock.wall(),
      bytes: 4096,
      diskOnly,
      current: true,
      madeBy: productName(),
    };
    saved.set(snapshot.id, snapshot);
    return snapshot;
  },
  snapshots: async () => {
    before('snapshots');
    return [...saved.values()];
  },
  removeSnapshot: async (idOrName) => {
    before('removeSnapshot');
    saved.delete(savedAs(saved, idOrName).id);
  },
});

/** @throws SandboxError `not_found` */
export function savedAs(saved: Saved, idOrName: string): SnapshotInfo {
  const snapshot = saved.get(idOrName) ?? [...saved.values()].find(({ name }) => name === idOrName);
  if (snapshot !== undefined) return snapshot;
  throw new SandboxError('not_found', `snapshot ${idOrName}: there is none`);
}
