/** Whether this host can start a save's VM: with the kernel and image that it was made with, in the same machine. */
import type { MachineSize } from '../../machine/vmm/driver.ts';
import { SandboxError } from '../contract/errors.ts';
import type { MadeFrom, PlatformTable } from '../contract/parts.ts';
import type { SnapshotRow } from '../store/snapshot.ts';
import { foreign, isDiskOnly, machineSize, snapshotSpec } from './snapshot-row.ts';
import type { OpenExtent } from './start-source.ts';

/** This version's. */
export interface FitParts extends MadeFrom {
  machineOf(size: MachineSize): string;
  /** Of this version and those before. Default: this version's. */
  readonly platforms?: PlatformTable;
}

export class SnapshotFit {
  readonly #parts: FitParts;
  readonly #platforms: PlatformTable;

  constructor(parts: FitParts) {
    this.#parts = parts;
    this.#platforms = parts.platforms ?? { has: (digests) => this.#isOwn(digests), verify: async () => undefined };
  }

  fits(row: SnapshotRow, extent: OpenExtent): boolean {
    const { kernelDigest, rootImageDigest } = row;
    if (extent === 'files') return true;
    if (isBooted(row, extent)) return this.#platforms.has({ rootImageDigest });
    return row.machine === this.#machineFor(row) && this.#platforms.has({ kernelDigest, rootImageDigest });
  }

  /**
   * Kernel and image of the save's VM, which are verified; undefined: this version's.
   * @throws SandboxError `snapshot_foreign`, `snapshot_damaged`
   */
  async platformFor(row: SnapshotRow, extent: OpenExtent): Promise<MadeFrom | undefined> {
    if (!this.fits(row, extent)) throw foreign(row, this.#machineFor(row));
    const { rootImageDigest } = row;
    // A disk alone boots with the newest kernel, and its files are read over any image.
    const { kernelDigest } = isBooted(row, extent) ? this.#parts : row;
    return await this.#verified({ kernelDigest, rootImageDigest }, extent === 'files');
  }

  /**
   * Kernel and image for forks of a VM, as `platformFor`.
   * @param madeFrom the VM's
   * @throws SandboxError `snapshot_foreign`, `snapshot_damaged`
   */
  async platformOf(madeFrom: MadeFrom | undefined): Promise<MadeFrom | undefined> {
    return madeFrom && (await this.#verified(madeFrom, false));
  }

  async #verified(madeFrom: MadeFrom, isOptional: boolean): Promise<MadeFrom | undefined> {
    if (this.#isOwn(madeFrom)) return undefined;
    if (this.#platforms.has(madeFrom)) {
      await this.#platforms.verify(madeFrom);
      return madeFrom;
    }
    if (isOptional) return undefined;
    throw new SandboxError('snapshot_foreign', 'the sandbox runs with a kernel or image of another version', {
      cause: 'its files are not in the home any more',
      remedy: 'create a sandbox, which has those of this version',
    });
  }

  /** The machine that this host's VMM would make for the save. */
  #machineFor(row: SnapshotRow): string {
    return this.#parts.machineOf(machineSize(snapshotSpec(row)));
  }

  #isOwn({ kernelDigest, rootImageDigest }: Partial<MadeFrom>): boolean {
    const own = this.#parts;
    return (
      (kernelDigest ?? own.kernelDigest) === own.kernelDigest &&
      (rootImageDigest ?? own.rootImageDigest) === own.rootImageDigest
    );
  }
}

const isBooted = (row: SnapshotRow, extent: OpenExtent): boolean => extent !== 'all' || isDiskOnly(row);
