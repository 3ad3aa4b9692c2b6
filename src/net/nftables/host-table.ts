/**
 * The table of this host in the kernel (io), shared by all processes of NeuroVisor: each adds and removes its
 * own sandboxes; who opens it takes out those of the dead. Changes of one process that wait for each other
 * become one transaction.
 */
import type { SandboxId } from '../../base/ids.ts';
import { ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { isRunning } from '../../sys/process-start.ts';
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

/** Changes of one transaction: beyond, `nft` takes longer for each, not shorter. */
const BATCH_MAX = 16;
/** Pins of one transaction, where one with all of them was refused. */
const PIN_CHUNK = 256;

interface Change {
  readonly commands: readonly NftObject[];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** What is to be in the table again when somebody has flushed it. */
export interface InstalledRules {
  readonly network: ChainInput;
  readonly pins: readonly PacketPin[];
  /** What an update writes anew: see `updateSandbox`. */
  readonly renewed?: readonly KeptChain[];
}

/** How the table is read; both give what `nft -j list` prints. */
interface TableReader {
  /** Of our table at least; none where there is no table. */
  listCounters(): readonly NftObject[] | Promise<readonly NftObject[]>;
  /** Counters and quota of one sandbox at least; none where it is not in the table. */
  listTraffic(id: SandboxId): readonly NftObject[] | Promise<readonly NftObject[]>;
}

interface HostTableOptions {
  readonly nft: Nft;
  /** Absent: `nft`, which reads the rules of the whole host for it. */
  readonly reader?: TableReader;
  readonly lock: HostLock;
  readonly owner: TableOwner;
  /** What this process has in the table now. */
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
   * Makes the table unless it is there, and removes the sandboxes of processes that have ended.
   * @throws NetError `table_of_other_version` while a NeuroVisor of that version has sandboxes in it
   */
  async prepare(): Promise<void> {
    await this.#options.lock.hold(async () => {
      const contents = await this.#contents();
      if (contents.layout !== 'ours') await this.#replace(contents);
      else await this.#removeDead(contents);
    });
  }

  /** Takes the table away if no sandbox is in it. Who adds one meanwhile makes it anew. @returns whether */
  async removeIfUnused(): Promise<boolean> {
    return await this.#options.lock.hold(async () => {
      const { layout, entries } = await this.#contents();
      if (layout !== 'ours' || entries.length > 0) return false;
      await this.#options.nft.apply(removeTable());
      return true;
    });
  }

  /** @throws NetError `policy_too_large` */
  async add(network: ChainInput): Promise<void> {
    await this.#applyOrRepair(() => addSandbox({ ...network, owner: this.#options.owner }));
  }

  /**
   * See `updateSandbox`. Pins that the kernel refuses are missing then, but the rules hold.
   * @param wanted asked again for each attempt
   * @throws NetError `policy_too_large`
   */
  async update(id: AddressLease['id'], wanted: () => InstalledRules): Promise<void> {
    const commands = (): NftObject[] => {
      const { network, pins, renewed } = wanted();
      return updateSandbox(network, pins, renewed);
    };
    try {
      await this.#applyOrRepair(commands);
    } catch (error) {
      if (!isRefused(error)) throw error;
      const { network, renewed } = wanted();
      await this.#apply(updateSandbox(network, [], renewed));
      await this.#addPins(id, wanted().pins);
    }
  }

  /** @param pins asked again for each attempt */
  async pin(id: AddressLease['id'], pins: () => readonly PacketPin[]): Promise<void> {
    await this.#applyOrRepair(() => addPins(id, pins()));
  }

  /** Fine where it is not there, because somebody has flushed the table. */
  async remove(lease: AddressLease): Promise<void> {
    // It may be about to add this one again.
    await this.#repairing?.catch((error: unknown) => ignore(error, 'who repairs has it'));
    try {
      await this.#apply(removeSandbox(lease, this.#options.owner));
    } catch (error) {
      if (!isRefused(error)) throw error;
      const { entries } = await this.#contents();
      if (entries.some((entry) => entry.lease.id === lease.id)) throw error;
      ignore(error, 'a sandbox that the packet filter does not have');
    }
  }

  /** Undefined for one that is not in the table. Counts begin anew when somebody has flushed it. */
  async traffic(id: AddressLease['id']): Promise<SandboxTraffic | undefined> {
    return (
      (await this.#traffic(id)) ?? ((await this.repair()) ? await this.#traffic(id) : undefined)
    );
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

  /** Confined first, in a transaction of its own: a TAP of ours that is not in the table is dead. */
  async #replace(
    { layout, entries }: TableContents,
    sandboxes: readonly InstalledRules[] = [],
  ): Promise<void> {
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
    this.#options.log.info('remove sandboxes of dead processes from the packet filter', {
      sandboxes: dead.length,
    });
    try {
      await this.#options.nft.apply(dead.flatMap((each) => removeSandbox(each.lease, each.owner)));
    } catch (error) {
      // Somebody has changed our table by hand: where nobody lives in it, it is made anew.
      const isInUse = dead.length < entries.length;
      if (isInUse || !isRefused(error)) throw error;
      this.#options.log.warn('the packet filter is made anew', { error: error.message });
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
   * Another program may have flushed the whole ruleset, as a reload of nftables.service does.
   * @returns whether that was so
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
    const lost = ours().filter(({ network }) => !known.has(network.lease.id));
    if (contents.layout === 'ours' && lost.length === 0) return false;
    log.warn('the packet filter was emptied by another program; it is made anew', {
      sandboxes: lost.length,
    });
    if (contents.layout !== 'ours') await this.#replace(contents, lost);
    else await this.#restore(lost);
    return true;
  }

  /** All at once, but what the kernel refuses of one is not the loss of the others. */
  async #restore(lost: readonly InstalledRules[]): Promise<void> {
    const { nft, owner, log } = this.#options;
    const added = ({ network }: InstalledRules): NftObject[] => addSandbox({ ...network, owner });
    const pinned = ({ network, pins }: InstalledRules): NftObject[] =>
      addPins(network.lease.id, pins);
    try {
      await nft.apply(lost.flatMap((each) => [...added(each), ...pinned(each)]));
      return;
    } catch (error) {
      if (!isRefused(error)) throw error;
      log.warn('sandboxes are added to the packet filter one by one', { error: error.message });
    }
    for (const each of lost) {
      const { id } = each.network.lease;
      try {
        await nft.apply(added(each));
        await this.#addPins(id, each.pins);
      } catch (error) {
        if (!isRefused(error)) throw error;
        log.error('add a sandbox to the packet filter', { sandbox: id, error: error.message });
      }
    }
  }

  /** As many as the kernel takes. A destination without its pin is refused, and asked for again. */
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

  /** In the order in which they came. */
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

  /** Of a transaction that was refused nothing is there: who is to blame alone hears of it. */
  async #applyEach(batch: readonly Change[]): Promise<void> {
    for (const { commands, resolve, reject } of batch) {
      await this.#options.nft.apply(commands).then(resolve, reject);
    }
  }
}

function isRefused(error: unknown): error is NetError {
  return error instanceof NetError && error.code === 'nft_refused';
}
