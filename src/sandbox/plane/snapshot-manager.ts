/**
 * Saves sandboxes and opens them again: pauses, snapshots and the sources of forks.
 *
 *     Supervisor.save ──► staging (store) ──commit──► snapshot ──open──► StartSource ──► Supervisor.start
 *                    └──► memory and staging, never committed ─────────► CloneSource   (forks)
 *
 * The store has rows and files; the copies between files and memory are injected as `Copies`. Saves may be encrypted
 * (`sealed-saves.ts`).
 */
import { randomBytes } from 'node:crypto';
import { ifThere } from '../../base/errors.ts';
import { newSandboxId } from '../../base/ids.ts';
import { MIB } from '../../base/units.ts';
import type { VmSnapshot } from '../../machine/vmm/driver.ts';
import { SEAL_KEY_BYTES } from '../../sys/sealed-file.ts';
import type { SnapshotInfo } from '../contract/control.ts';
import { SandboxError } from '../contract/errors.ts';
import { SNAPSHOT_REFERENCE } from '../contract/limits.ts';
import type { GuestMemory, MappedMemory, SaveTarget } from '../contract/parts.ts';
import type { SandboxSpec } from '../contract/spec.ts';
import { ramMib } from '../memory/size.ts';
import type { OwnerKey } from '../store/owner-keys.ts';
import type { SandboxRow } from '../store/sandbox-table.ts';
import type { NewSnapshot, SnapshotRow } from '../store/snapshot.ts';
import type { OpenSnapshot } from '../store/snapshot-table.ts';
import type { Staging } from '../store/staging.ts';
import type { Store } from '../store/store.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import type { Copies } from './copies.ts';
import { type Destination, keyMissing, type ReadFiles, sealedDestination, unsealed } from './sealed-saves.ts';
import { type FitParts, SnapshotFit } from './snapshot-fit.ts';
import {
  annotationsOf,
  differenceOf,
  isDiskOnly,
  machineSize,
  noSnapshot,
  requireNoVolumes,
  savedSpec,
  snapshotSpec,
} from './snapshot-row.ts';
import type { ForkLease, OpenExtent, PauseLabel, SaveExtent, SnapshotLabel, SnapshotLease } from './start-source.ts';
import { ramMapper, startSource } from './start-source.ts';

export interface SnapshotManagerParts extends FitParts {
  readonly store: Store;
  readonly copies: Copies;
  /** Default: one owner for all. */
  ownerOf?(annotations: SnapshotInfo['annotations']): string;
  /** Saves are encrypted, each with its owner's key. Default: they are plain. Either way both can be opened. */
  readonly encrypts?: boolean;
}

export class SnapshotManager {
  readonly #parts: SnapshotManagerParts;
  readonly #fit: SnapshotFit;

  constructor(parts: SnapshotManagerParts) {
    this.#parts = parts;
    this.#fit = new SnapshotFit(parts);
  }

  /**
   * Ends the VM once its state and the sandbox's row are on disk.
   * @param keep calls `commit` with the row in its turn
   * @throws SandboxError; see `Supervisor.save`
   */
  async pause(
    supervisor: Supervisor,
    { isDiskOnly, annotations }: PauseLabel,
    keep: (snapshotId: string, commit: (row: SandboxRow) => Promise<void>) => Promise<void>,
  ): Promise<void> {
    const id = newSandboxId();
    await using staging = await this.#parts.store.snapshots.stage();
    const key = await this.#keyFor(annotations);
    using destination = this.#destination(staging, isDiskOnly ? 'disk' : 'all', supervisor.spec, key?.bytes);
    await supervisor.save(destination.target, 'end', async (snapshot) => {
      await destination.finish();
      const label = { name: null, annotations, sealedBy: key?.id ?? null };
      const made = this.#row(id, label, 'pause', supervisor, snapshot);
      await keep(id, async (row) => void (await staging.commit(made, row)));
    });
  }

  /** The VM continues, also after an error. @throws SandboxError; StoreError `name_taken`, `disk_full` */
  async snapshot(supervisor: Supervisor, extent: SaveExtent, label: SnapshotLabel): Promise<SnapshotRow> {
    requireNoVolumes(supervisor.spec);
    await this.requireFreeName(label.name);
    await using staging = await this.#parts.store.snapshots.stage();
    const key = await this.#keyFor(label.annotations);
    using destination = this.#destination(staging, extent, supervisor.spec, key?.bytes);
    let made: NewSnapshot | undefined;
    await supervisor.save(destination.target, 'continue', async (snapshot, whole) => {
      const sealed = { ...label, sealedBy: key?.id ?? null };
      made = this.#row(newSandboxId(), sealed, 'snapshot', supervisor, snapshot);
      await whole;
      await destination.finish();
      // Runs while the guest comes back; the snapshot is committed once it has.
      await staging.prepare(made);
    });
    if (made === undefined) throw new Error('a save without a commit');
    return await staging.commit(made);
  }

  /** Copies the state of a sandbox that is paused to disk: without the memory if the pause has none. */
  async copy(pauseId: string, extent: SaveExtent, { name, annotations }: SnapshotLabel): Promise<SnapshotRow> {
    await this.requireFreeName(name);
    const { store, copies } = this.#parts;
    await using from = await store.snapshots.open(pauseId, extent);
    // Encrypted files are copied as they are.
    this.#keyOf(from.row);
    await using staging = await store.snapshots.stage();
    await staging.write(async (to) => {
      const { environment, base: _kept, ...files } = from.paths;
      // The commit drops files that the store has already.
      for (const role of ['ram', 'difference', 'state', 'disk'] as const) {
        const path = files[role];
        if (path !== undefined) await copies.cloneDisk(path, to[role]);
      }
      if (environment !== undefined) await copies.linkFile(environment, to.environment);
    });
    const { createdAtMs: _made, bytes: _bytes, baseBytes: _too, files: _files, ...all } = from.row;
    const { base, ...row } = all;
    const kept = extent === 'disk' || base === undefined ? {} : { base };
    const { base: basePath = '' } = from.paths;
    if (kept.base !== undefined) {
      await staging.keepBase(kept.base, (to) => copies.keepMemory(basePath, to));
    }
    const stateSha256 = extent === 'disk' ? null : row.stateSha256;
    const specJson = JSON.stringify({ ...snapshotSpec(from.row), annotations });
    const made = { ...row, ...kept, stateSha256, specJson, id: newSandboxId(), name };
    return await staging.commit({ ...made, kind: 'snapshot' });
  }

  /**
   * Makes a source for forks. For RAM that the VM maps, its changes are collected in memory, and all forks map that
   * RAM. Other RAM is copied in memory, or into a file that all forks map.
   * @param onCopied gets the lease before the VM runs again, and owns it from then on, also if this throws
   * @throws SandboxError; see `Supervisor.save`
   */
  async acquireForkSource(supervisor: Supervisor, onCopied: (lease: ForkLease) => void): Promise<void> {
    const { store, copies } = this.#parts;
    const madeFrom = await this.#fit.platformOf(supervisor.madeFrom);
    const staging = await store.snapshots.stage();
    let memory: GuestMemory | undefined;
    let changes: GuestMemory | undefined;
    let base: MappedMemory | undefined;
    // Nothing but this lease can read it.
    const key = this.#parts.encrypts === true ? randomBytes(SEAL_KEY_BYTES) : undefined;
    const state = key === undefined ? undefined : copies.makeScratch();
    const release = async (): Promise<void> => {
      memory?.close();
      changes?.close();
      state?.close();
      await base?.close();
      await staging.discard();
    };
    let isHandedOver = false;
    try {
      if (copies.mapMemory === undefined || copies.holdsMapped === true) {
        memory = copies.makeMemory(ramMib(supervisor.spec) * MIB);
      }
      const { ram, disk, environment } = staging.paths;
      const held = memory?.path;
      const into = this.#into(staging, 'all');
      const target: SaveTarget =
        held === undefined || into.memory === null
          ? into
          : {
              ...into,
              ...(key && { keepDisk: (from: string) => staging.write(() => copies.seal(from, disk, key)) }),
              memory: {
                ...into.memory,
                statePath: state?.path ?? into.memory.statePath,
                ramPath: held,
                keepMemory: (from) => copies.holdMemory(from, held),
                keepBase: async (of) => {
                  // Stays usable after the sandbox has ended.
                  base = await of.open();
                  changes = copies.makeScratch();
                  return { path: changes.path, baseDigest: await of.digest() };
                },
              },
            };
      const hasEnvironment = supervisor.spec.environment !== undefined;
      await supervisor.save(target, 'continue', async (snapshot, whole) => {
        const paths = { ram: base?.path ?? held ?? ram, disk, ...(hasEnvironment ? { environment } : {}) };
        // Forks belong to the sandbox's owner, so they may share with it.
        const shared = base?.base;
        // A base stays plain, so that of an encrypted save may only be a template's RAM.
        const own = { isBase: key === undefined };
        const mapper =
          shared === undefined ? ramMapper(copies, paths.ram, own) : { mapMemory: async () => shared.open() };
        const reads = key && { ...copies, cloneDisk: (from: string, to: string) => copies.unsealNew(from, to, key) };
        const source = startSource(copies, snapshot, paths, mapper, whole, { reads, madeFrom });
        isHandedOver = true;
        onCopied({ source, release, [Symbol.asyncDispose]: release });
      });
    } catch (error) {
      if (!isHandedOver) await release();
      throw error;
    }
  }

  /**
   * Opens a snapshot after checking its files and that it fits this kernel, image, VMM and processor.
   * @param extent `disk`: a VM boots from its disk, and ignores any memory; `files`: also over another root image
   * @param checks `meanwhile`: verifies while the VMM starts, before it loads any of it (`SnapshotLease.orDamage`)
   * @throws StoreError `snapshot_damaged`; SandboxError `not_found`, `snapshot_foreign`
   */
  async open(
    idOrName: string,
    extent: OpenExtent = 'all',
    checks: 'first' | 'meanwhile' = 'first',
  ): Promise<SnapshotLease> {
    const { store, copies } = this.#parts;
    const row = await this.find(idOrName);
    const madeFrom = await this.#fit.platformFor(row, extent);
    // A VM that boots from a disk loads nothing that could wait for the check.
    const isLoaded = extent === 'all' && row.stateSha256 !== null;
    const used = extent === 'files' ? 'disk' : extent;
    const open = await store.snapshots.open(row.id, used, isLoaded ? checks : 'first');
    const read = await this.#read(open);
    const { machine, stateSha256 } = open.row;
    const { state: statePath } = read.paths;
    const snapshot =
      statePath === undefined || stateSha256 === null
        ? null
        : { statePath, stateSha256, machine, ...differenceOf({ row: open.row, paths: read.paths }) };
    const { ram, base = ram } = read.paths;
    const isSealed = open.row.sealedBy != null;
    // A base stays plain, so that of an encrypted save may only be a template's RAM.
    const isBase = isSealed || this.#parts.encrypts !== true;
    // RAM that only one VM uses is better copied, and encrypted RAM can't be mapped.
    const isCopied = base === ram && (isSealed || (copies.holdsMapped === true && open.row.kind === 'pause'));
    const mapper = isCopied ? {} : ramMapper(copies, base, { digest: open.row.base, isBase });
    const paths = { ...read.paths, ...(base && { ram: base }) };
    const { row: opened, whole } = open;
    const source = startSource(copies, snapshot, paths, mapper, whole, { reads: read.copies, madeFrom });
    const release = async (): Promise<void> => {
      read.close();
      await open.release();
    };
    return {
      row: opened,
      spec: snapshotSpec(opened),
      source,
      async orDamage(starting) {
        return await starting.catch(async (error: unknown) => {
          await whole;
          throw read.damage() ?? error;
        });
      },
      release,
      [Symbol.asyncDispose]: release,
    };
  }

  /** Its files for starts, decrypted if need be; closes it after a failure. @throws StoreError `snapshot_damaged` */
  async #read(open: OpenSnapshot): Promise<ReadFiles> {
    const { copies } = this.#parts;
    try {
      const key = this.#keyOf(open.row);
      if (key !== null) return await unsealed(copies, open, key.bytes);
      return { paths: open.paths, copies, damage: () => undefined, close: () => undefined };
    } catch (error) {
      // A digest that differs says more.
      await open.whole.finally(() => open.release());
      throw error;
    }
  }

  /** `null` if the snapshot is plain. @throws StoreError `snapshot_damaged` */
  #keyOf(row: SnapshotRow): OwnerKey | null {
    if (row.sealedBy == null) return null;
    const { keys } = this.#parts.store;
    const key = keys.withId(row.sealedBy);
    if (key === undefined) throw keyMissing(row, keys.pathOf(row.sealedBy));
    return key;
  }

  /** `null` if saves are plain. @throws StoreError `store_unavailable`, `disk_full` */
  async #keyFor(annotations: SnapshotInfo['annotations']): Promise<OwnerKey | null> {
    const { store, encrypts, ownerOf = () => 'local' } = this.#parts;
    return encrypts === true ? await store.keys.of(ownerOf(annotations)) : null;
  }

  /** Like `open`, but verifies while the VMM starts. Does not find pauses, which belong to their sandboxes. */
  async openNamed(idOrName: string): Promise<SnapshotLease> {
    const row = await this.find(idOrName);
    if (row.kind === 'pause') throw noSnapshot(idOrName);
    return await this.open(row.id, 'all', 'meanwhile');
  }

  /** @throws SandboxError `not_found` */
  async find(idOrName: string): Promise<SnapshotRow> {
    const row = await this.#stored(idOrName);
    if (row !== undefined) return row;
    throw noSnapshot(idOrName);
  }

  #stored(idOrName: string): Promise<SnapshotRow | undefined> {
    return ifThere(this.#parts.store.snapshots.get(idOrName), 'not_found');
  }

  async list(): Promise<readonly SnapshotInfo[]> {
    return (await this.#countedByOwner()).filter(({ kind }) => kind === 'snapshot').map((row) => this.#info(row));
  }

  /** The snapshot as `list` shows it. */
  async shown(row: SnapshotRow): Promise<SnapshotInfo> {
    return this.#info((await this.#countedByOwner()).find(({ id }) => id === row.id) ?? row);
  }

  /** Bytes by sandbox id. */
  async pausedBytes(): Promise<ReadonlyMap<string, number>> {
    const rows = await this.#countedByOwner();
    const pauses = rows.filter(({ kind }) => kind === 'pause');
    return new Map(pauses.map(({ sandboxId, bytes }) => [sandboxId, bytes]));
  }

  /** Bases are counted per owner; otherwise an owner could tell from their space what others save and remove. */
  async #countedByOwner(): Promise<readonly SnapshotRow[]> {
    const { store, ownerOf = () => '' } = this.#parts;
    return await store.snapshots.list((row) => ownerOf(annotationsOf(row)));
  }

  #info(row: SnapshotRow): SnapshotInfo {
    const { cpus, memoryMib, diskMib } = snapshotSpec(row);
    const { id, name, sandboxId, createdAtMs, bytes } = row;
    return {
      id,
      name,
      sandbox: sandboxId,
      annotations: annotationsOf(row),
      cpus,
      memoryMib,
      diskMib,
      createdAtMs,
      bytes,
      current: this.isCurrent(row),
      diskOnly: isDiskOnly(row),
      madeBy: row.madeBy,
    };
  }

  /** Version and commit that made a snapshot that does not fit this host; `null` for others, or if there is none. */
  async foreignMaker(id: string): Promise<string | null> {
    const row = await this.#stored(id);
    return row === undefined || this.isCurrent(row) ? null : (row.madeBy ?? 'an older version');
  }

  isCurrent(row: SnapshotRow): boolean {
    return this.#fit.fits(row, 'all');
  }

  async remove(idOrName: string): Promise<void> {
    const row = await this.find(idOrName);
    await this.#parts.store.snapshots.remove(row.id);
  }

  /** @throws SandboxError `name_taken`, `spec_invalid` */
  async requireFreeName(name: string | null): Promise<void> {
    if (name === null) return;
    if (!SNAPSHOT_REFERENCE.test(name)) {
      throw new SandboxError('spec_invalid', `"${name}" is not a valid snapshot name`, {
        remedy: 'use up to 63 lowercase letters, digits and . _ -, beginning with a letter or digit',
      });
    }
    if ((await this.#stored(name)) === undefined) return;
    throw new SandboxError('name_taken', `there is a snapshot "${name}" already`, {
      remedy: 'choose another name, or remove that snapshot',
    });
  }

  #destination(staging: Staging, extent: SaveExtent, spec: SandboxSpec, key: Uint8Array | undefined): Destination {
    const { copies } = this.#parts;
    const plain = this.#into(staging, extent);
    if (key === undefined) return { target: plain, finish: async () => undefined, [Symbol.dispose]: () => undefined };
    return sealedDestination({ copies, staging, key, plain, ramBytes: ramMib(spec) * MIB });
  }

  /** Reports a full disk as such. */
  #into({ paths, write, keepBase }: Staging, extent: SaveExtent): SaveTarget {
    const { copies } = this.#parts;
    let reason: unknown;
    // A copy that fails removes the directory under the other one, whose error would mislead.
    const keep = (copy: () => Promise<void>): Promise<void> =>
      write(async () => {
        try {
          await copy();
        } catch (error) {
          reason ??= error;
          throw reason;
        }
      });
    return {
      memory:
        extent === 'disk'
          ? null
          : {
              statePath: paths.state,
              ramPath: paths.ram,
              keepMemory: (from) => keep(() => copies.keepMemory(from, paths.ram)),
              keepBase: async (base, from) => {
                const baseDigest = await base.digest();
                await keepBase(baseDigest, (to) => copies.keepMemory(from, to));
                return { path: paths.difference, baseDigest };
              },
            },
      keepDisk: (from) => keep(() => copies.cloneDisk(from, paths.disk)),
      keepEnvironment: (from) => keep(() => copies.linkFile(from, paths.environment)),
    };
  }

  #row(
    id: string,
    { name, annotations, sealedBy }: SnapshotLabel & Pick<NewSnapshot, 'sealedBy'>,
    kind: 'snapshot' | 'pause',
    { spec, madeFrom }: Pick<Supervisor, 'spec' | 'madeFrom'>,
    snapshot: VmSnapshot | null,
  ): NewSnapshot {
    const { kernelDigest, rootImageDigest } = madeFrom ?? this.#parts;
    const { stateSha256 = null, difference } = snapshot ?? {};
    const machine = snapshot?.machine ?? this.#parts.machineOf(machineSize(spec));
    const specJson = savedSpec(spec, annotations);
    const own = spec.environment === undefined ? {} : { environment: spec.environment.digest };
    const base = difference === undefined ? {} : { base: difference.baseDigest };
    const made = { id, name, kind, sandboxId: spec.id, specJson, sealedBy: sealedBy ?? null, ...own, ...base };
    return { ...made, machine, stateSha256, kernelDigest, rootImageDigest };
  }
}
