/**
 * The table of this host in the kernel (io), shared by all processes of NeuroVisor: each adds and removes its own
 * sandboxes, and removes those of dead processes when it opens the table. Queued changes of one process are combined
 * into one transaction.
 */
import type { SandboxId } from '../../../base/ids.ts';
import { ignore } from '../../../base/ignore.ts';
import type { Log } from '../../../base/log.ts';
import { isRunning } from '../../../sys/process-start.ts';
import type { AddressLease } from '../addresses/address-plan.ts';
import { NetError } from '../errors.ts';
import type { HostLock } from '../host-lock.ts';
import type { NftObject } from './json.ts';
import type { Nft } from './nft.ts';
import {
  addPins,
  addSandbox,
  type PacketPin,
  removeSandbox,
  removeTable,
  updateSandbox,
  wholeTable,
} from './ruleset.ts';
import type { ChainInput, KeptChain } from './sandbox-chains.ts';
import { readTraffic, type SandboxTraffic } from './sandbox-counters.ts';
import { readContents, type TableContents, type TableOwner } from './table-owners.ts';

/** Changes in one transaction: with more, `nft` takes longer for each. */
const BATCH_MAX = 16;
/** Pins in one transaction, after one with all of them was refused. */
const PIN_CHUNK = 256;

interface Change {
  readonly commands: readonly NftObject[];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** Rules of one sandbox in the table, restored after a flush. */
export interface InstalledRules {
  readonly input: ChainInput;
  readonly pins: readonly PacketPin[];
  /** Chains that an update rewrites: see `updateSandbox`. */
  readonly renewed?: readonly KeptChain[];
}

/** Reads the table. Results have the form that `nft -j list` prints. */
interface TableReader {
  /** Includes at least those of our table; none if there is no table. */
  listCounters(): readonly NftObject[] | Promise<readonly NftObject[]>;
  /** Includes at least counters and quota of one sandbox; none if it is not in the table. */
  listTraffic(id: SandboxId): readonly NftObject[] | Promise<readonly NftObject[]>;
}

interface HostTableOptions {
  readonly nft: Nft;
  /** Default: `nft`, which reads the rules of the whole host each time. */
  readonly reader?: TableReader;
  readonly lock: HostLock;
  readonly owner: TableOwner;
  readonly ours: () => readonly InstalledRules[];
  readonly log: Log;
}

/** Methods throw `NetError`. */
export class HostTable {
  readonly #options: HostTableOptions;
  readonly #waiting: Change[] = [];
  #isApplying = false;
  #repairing: Promise<boolean> | undefined;

  constructor(options: HostTableOptions) {
    this.#options = options;
  }

  /**
   * Creates the table unless it exists, and removes the sandboxes of dead processes.
   * @throws NetError `table_of_other_version` while a NeuroVisor of that version has sandboxes in it
   */
  async prepare(): Promise<void> {
    await this.#options.lock.hold(async () => {
      const contents = await this.#contents();
      if (contents.layout !== 'ours') await this.#replace(contents);
      else await this.#removeDead(contents);
    });
  }

  /** Removes the table if it has no sandbox. A later `add` creates it again. @returns true if it was removed */
  async removeIfUnused(): Promise<boolean> {
    return await this.#options.lock.hold(async () => {
      const { layout, entries } = await this.#contents();
      if (layout !== 'ours' || entries.length > 0) return false;
      await this.#options.nft.apply(removeTable());
      return true;
    });
  }

  /** @throws NetError `policy_too_large` */
  async add(input: ChainInput): Promise<void> {
    await this.#applyOrRepair(() => addSandbox({ ...input, owner: this.#options.owner }));
  }

  /**
   * See `updateSandbox`. Skips pins that the kernel refuses; the rules hold.
   * @param wanted called for each attempt
   * @throws NetError `policy_too_large`
   */
  async update(id: AddressLease['id'], wanted: () => InstalledRules): Promise<void> {
    const commands = (): NftObject[] => {
      const { input, pins, renewed } = wanted();
      return updateSandbox(input, pins, renewed);
    };
    try {
      await this.#applyOrRepair(commands);
    } catch (error) {
      if (!isRefused(error)) throw error;
      const { input, renewed } = wanted();
      await this.#apply(updateSandbox(input, [], renewed));
      await this.#addPins(id, wanted().pins);
    }
  }

  async pin(id: AddressLease['id'], pins: () => readonly PacketPin[]): Promise<void> {
    await this.#applyOrRepair(() => addPins(id, pins()));
  }

  /** Does nothing if a flush has already removed it. */
  async remove(lease: AddressLease): Promise<void> {
    // A concurrent repair may add this one again.
    await this.#repairing?.catch((error: unknown) => ignore(error, 'the caller of repair has it'));
    try {
      await this.#apply(removeSandbox(lease, this.#options.owner));
    } catch (error) {
      if (!isRefused(error)) throw error;
      const { entries } = await this.#contents();
      if (entries.some((entry) => entry.lease.id === lease.id)) throw error;
      ignore(error, 'the packet filter has no such sandbox');
    }
  }

  /** Undefined for a sandbox that is not in the table. Counts restart at 0 after a flush. */
  async traffic(id: AddressLease['id']): Promise<SandboxTraffic | undefined> {
    return (await this.#traffic(id)) ?? ((await this.repair()) ? await this.#traffic(id) : undefined);
  }

  async #traffic(id: AddressLease['id']): Promise<SandboxTraffic | undefined> {
    const { nft, reader = nft } = this.#options;
    try {
      return readTraffic(await reader.listTraffic(id)).get(id);
    } catch (error) {
      if (!isRefused(error)) throw error;
      ignore(error, 'there is no table');
      return undefined;
    }
  }

  async #contents(): Promise<TableContents> {
    const { nft, reader = nft } = this.#options;
    return readContents(await reader.listCounters());
  }

  /** Installs the base first, in its own transaction: one of our TAPs without rules may send nothing. */
  async #replace({ layout, entries }: TableContents, sandboxes: readonly InstalledRules[] = []): Promise<void> {
    const other = entries.find(({ owner }) => isRunning(owner));
    if (layout === 'other' && other !== undefined) {
      throw new NetError(
        'table_of_other_version',
        `use the packet filter: process ${other.owner.pid} is a NeuroVisor of another version`,
        { remedy: 'End that process and its sandboxes, then try again.' },
      );
    }
    await this.#options.nft.apply(wholeTable([]));
    if (sandboxes.length > 0) await this.#restore(sandboxes);
  }

  async #removeDead({ entries }: TableContents): Promise<void> {
    const dead = entries.filter(({ owner }) => !isRunning(owner));
    if (dead.length === 0) return;
    this.#options.log.info('remove sandboxes of dead processes from the packet filter', { sandboxes: dead.length });
    try {
      await this.#options.nft.apply(dead.flatMap((each) => removeSandbox(each.lease, each.owner)));
    } catch (error) {
      // Another program has changed our table. It is rebuilt unless a running process uses it.
      const isInUse = dead.length < entries.length;
      if (isInUse || !isRefused(error)) throw error;
      this.#options.log.warn('rebuild the packet filter', { error: error.message });
      await this.#options.nft.apply(wholeTable([]));
    }
  }

  async #applyOrRepair(commands: () => readonly NftObject[]): Promise<void> {
    try {
      await this.#apply(commands());
    } catch (error) {
      if (!isRefused(error)) throw error;
      if (!(await this.repair())) throw error;
      await this.#apply(commands());
    }
  }

  /**
   * Restores our rules if another program has flushed them, as a reload of nftables.service does.
   * @returns true if it had
   * @throws NetError `table_of_other_version` while a NeuroVisor of that version has sandboxes in it
   */
  repair(): Promise<boolean> {
    this.#repairing ??= this.#options.lock
      .hold(() => this.#repair())
      .finally(() => {
        this.#repairing = undefined;
      });
    return this.#repairing;
  }

  async #repair(): Promise<boolean> {
    const { ours, log } = this.#options;
    const contents = await this.#contents();
    const known = new Set(contents.entries.map(({ lease }) => lease.id));
    const lost = ours().filter(({ input }) => !known.has(input.lease.id));
    if (contents.layout === 'ours' && lost.length === 0) return false;
    // If nothing is lost, the last process that ended with a network has removed the empty table.
    if (lost.length === 0) log.info('make the table of the packet filter again');
    else log.warn('another program has emptied the packet filter: restore it', { sandboxes: lost.length });
    if (contents.layout !== 'ours') await this.#replace(contents, lost);
    else await this.#restore(lost);
    return true;
  }

  /** Restores all at once; if the kernel refuses that, one by one, so that one failure does not affect the others. */
  async #restore(lost: readonly InstalledRules[]): Promise<void> {
    const { nft, owner, log } = this.#options;
    const rulesOf = ({ input }: InstalledRules) => addSandbox({ ...input, owner });
    const pinsOf = ({ input, pins }: InstalledRules) => addPins(input.lease.id, pins);
    try {
      await nft.apply(lost.flatMap((each) => [...rulesOf(each), ...pinsOf(each)]));
      return;
    } catch (error) {
      if (!isRefused(error)) throw error;
      log.warn('add sandboxes to the packet filter one by one', { error: error.message });
    }
    for (const each of lost) {
      const { id } = each.input.lease;
      try {
        await nft.apply(rulesOf(each));
        await this.#addPins(id, each.pins);
      } catch (error) {
        if (!isRefused(error)) throw error;
        log.error('add a sandbox to the packet filter', { sandbox: id, error: error.message });
      }
    }
  }

  /** Adds as many as the kernel accepts. A destination without a pin is refused, and the guest looks it up again. */
  async #addPins(id: AddressLease['id'], pins: readonly PacketPin[]): Promise<void> {
    for (let at = 0; at < pins.length; at += PIN_CHUNK) {
      try {
        await this.#options.nft.apply(addPins(id, pins.slice(at, at + PIN_CHUNK)));
      } catch (error) {
        if (!isRefused(error)) throw error;
        this.#options.log.warn('add pins', { sandbox: id, error: error.message });
      }
    }
  }

  #apply(commands: readonly NftObject[]): Promise<void> {
    if (commands.length === 0) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#waiting.push({ commands, resolve, reject });
      if (!this.#isApplying) void this.#applyWaiting();
    });
  }

  async #applyWaiting(): Promise<void> {
    this.#isApplying = true;
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, BATCH_MAX);
      try {
        await this.#options.nft.apply(batch.flatMap(({ commands }) => commands));
        for (const { resolve } of batch) resolve();
      } catch (error) {
        const [first] = batch;
        if (batch.length === 1) first?.reject(error);
        else await this.#applyEach(batch);
      }
    }
    this.#isApplying = false;
  }

  /** A refused transaction applies nothing: each change is retried alone, and only the faulty one fails. */
  async #applyEach(batch: readonly Change[]): Promise<void> {
    for (const { commands, resolve, reject } of batch) {
      await this.#options.nft.apply(commands).then(resolve, reject);
    }
  }
}

function isRefused(error: unknown): error is NetError {
  return error instanceof NetError && error.code === 'nft_refused';
}
