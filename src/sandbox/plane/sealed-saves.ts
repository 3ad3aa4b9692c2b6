/**
 * Encrypted saves. No plain byte of theirs reaches the store's disk:
 *
 *     disk, RAM of a stopped VM ─────────────────────────encrypt──► staging (store)
 *     what a VMM writes: state, changes of RAM ──► memory ─encrypt──► staging (store)
 *     store ──decrypt──► a VM's RAM and disk; memory, for the VMM that reads state and changes
 *
 * A base is a template's RAM, which is plain on this host anyway, so it is kept as it is.
 */
import { errorCode } from '../../base/errors.ts';
import type { RamDifference } from '../../machine/vmm/driver.ts';
import type { GuestMemory, MemoryTarget, SaveTarget } from '../contract/parts.ts';
import { StoreError } from '../store/errors.ts';
import type { SnapshotPaths, SnapshotRow } from '../store/snapshot.ts';
import type { OpenSnapshot } from '../store/snapshot-table.ts';
import type { Staging } from '../store/staging.ts';
import type { Copies } from './copies.ts';

/** Where a save goes, and what is left to do once the VM has written it. */
export interface Destination extends Disposable {
  readonly target: SaveTarget;
  /** Call it before the commit, once all is written. @throws StoreError `disk_full` */
  finish(): Promise<void>;
}

export interface SealedSaveParts {
  readonly copies: Copies;
  readonly staging: Staging;
  readonly key: Uint8Array;
  /** The same save without encryption. */
  readonly plain: SaveTarget;
  /** RAM of the VM. */
  readonly ramBytes: number;
}

/** @param parts `plain` gives what is not encrypted: environment and base */
export function sealedDestination(parts: SealedSaveParts): Destination {
  const { copies, staging, key, plain } = parts;
  const { paths } = staging;
  const memories: GuestMemory[] = [];
  const held = (memory: GuestMemory): string => {
    memories.push(memory);
    return memory.path;
  };
  /** Paths in memory, and where they go. */
  const rest = new Map<string, string>();
  let closed = false;
  const close = (): void => {
    closed = true;
    for (const memory of memories.splice(0)) memory.close();
  };
  const seal = (from: string, to: string): Promise<void> => staging.write(() => copies.seal(from, to, key));
  const memory = plain.memory && sealedMemory(parts, plain.memory, { held, rest, seal });
  return {
    target: { ...plain, memory, keepDisk: (from) => seal(from, paths.disk) },
    async finish() {
      if (closed) return;
      await allDone([...rest].map(([from, to]) => seal(from, to)));
      close();
    },
    [Symbol.dispose]: close,
  };
}

interface Collected {
  held(memory: GuestMemory): string;
  readonly rest: Map<string, string>;
  seal(from: string, to: string): Promise<void>;
}

function sealedMemory(
  { copies, staging: { paths }, ramBytes }: SealedSaveParts,
  plain: MemoryTarget,
  { held, rest, seal }: Collected,
): MemoryTarget {
  const { keepBase } = plain;
  const statePath = held(copies.makeScratch());
  rest.set(statePath, paths.state);
  let ramPath = paths.ram;
  return {
    statePath,
    get ramPath() {
      return ramPath;
    },
    async keepMemory(from, changesFollow) {
      // A stopped VM's memory is complete, and this host may be short of memory for another copy.
      if (changesFollow !== true) return await seal(from, paths.ram);
      ramPath = held(copies.makeMemory(ramBytes));
      rest.set(ramPath, paths.ram);
      await copies.holdMemory(from, ramPath);
    },
    ...(keepBase && {
      async keepBase(base, from): Promise<RamDifference> {
        const { baseDigest } = await keepBase(base, from);
        const path = held(copies.makeScratch());
        rest.set(path, paths.difference);
        return { path, baseDigest };
      },
    }),
  };
}

/** A snapshot's files for starts. */
export interface ReadFiles {
  readonly paths: SnapshotPaths;
  readonly copies: Pick<Copies, 'fillMemory' | 'cloneDisk'>;
  /** What a start failed with because its files could not be decrypted. */
  damage(): StoreError | undefined;
  close(): void;
}

/** Verifies and decrypts; the state at once, changes of RAM meanwhile. @throws StoreError `snapshot_damaged` */
export async function unsealed(copies: Copies, open: OpenSnapshot, key: Uint8Array): Promise<ReadFiles> {
  const { row, paths } = open;
  const memories: GuestMemory[] = [];
  let damage: StoreError | undefined;
  const reading = async <T>(role: string, work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      if (errorCode(error) !== 'sealed_damaged') throw error;
      damage ??= cannotDecrypt(row, `its ${role} can't be decrypted`, error);
      throw damage;
    }
  };
  const inMemory = async (role: 'state' | 'difference', from: string): Promise<string> => {
    const memory = copies.makeScratch();
    memories.push(memory);
    await reading(role, () => copies.unsealInto(from, memory.path, key));
    return memory.path;
  };
  const close = (): void => {
    for (const memory of memories.splice(0)) memory.close();
  };
  try {
    const { state, difference } = paths;
    // QEMU's driver reads it before anything else.
    const [statePath, differencePath] = await allDone([
      state === undefined ? undefined : inMemory('state', state),
      difference === undefined ? undefined : inMemory('difference', difference),
    ]);
    return {
      paths: {
        ...paths,
        ...(statePath === undefined ? {} : { state: statePath }),
        ...(differencePath === undefined ? {} : { difference: differencePath }),
      },
      copies: {
        // A base is plain.
        fillMemory: (from, to) =>
          from === paths.ram ? reading('ram', () => copies.unsealInto(from, to, key)) : copies.fillMemory(from, to),
        cloneDisk: (from, to) => reading('disk', () => copies.unsealNew(from, to, key)),
      },
      damage: () => damage,
      close,
    };
  } catch (error) {
    close();
    throw error;
  }
}

/** Waits for all, also after a failure: threads read and write memory by its descriptor's number, which could be reused. */
async function allDone<T>(works: readonly (Promise<T> | undefined)[]): Promise<(T | undefined)[]> {
  await Promise.allSettled(works);
  return await Promise.all(works);
}

/** @param keyPath file of the key that is missing */
export function keyMissing(row: SnapshotRow, keyPath: string): StoreError {
  return cannotDecrypt(
    row,
    `its key ${keyPath} was removed or replaced`,
    undefined,
    `Put back ${keyPath} from a copy, or `,
  );
}

function cannotDecrypt(row: SnapshotRow, how: string, cause?: unknown, remedy = ''): StoreError {
  const rest = 'remove the snapshot and create a new one.';
  return new StoreError('snapshot_damaged', `open snapshot ${row.name ?? row.id}: ${how}`, {
    ...(cause === undefined ? {} : { cause }),
    remedy: remedy === '' ? `R${rest.slice(1)}` : `${remedy}${rest}`,
  });
}
