/**
 * Watches this process's part of the packet filter while it has leases (io): restores rules that another program has
 * flushed, and reads the use of byte budgets. A check takes microseconds.
 */
import type { Clock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import type { Log } from '../../../base/log.ts';
import type { HostTable } from '../nftables/host-table.ts';
import { ownerCounter, type TableOwner } from '../nftables/table-owners.ts';
import type { TableProbe } from '../nftables/table-probe.ts';
import type { SandboxLease } from './sandbox-lease.ts';

/** The longest time without rules after another program has flushed the whole ruleset. */
const WATCH_MS = 500;
/** Each check records the gateway usage of a quarter of the leases. */
const RECORD_TURNS = 4;

interface TableWatchOptions {
  readonly table: HostTable;
  readonly probe: TableProbe;
  readonly owner: TableOwner;
  readonly leases: () => readonly SandboxLease[];
  readonly clock: Clock;
  readonly log: Log;
}

export class TableWatch {
  readonly #options: TableWatchOptions;
  #cancel: (() => void) | undefined;
  #isClosed = false;
  #checks = 0;

  constructor(options: TableWatchOptions) {
    this.#options = options;
  }

  /** Runs until there are no leases. Idempotent. */
  start(): void {
    this.#cancel ??= this.#options.clock.after(WATCH_MS, () => {
      this.#cancel = undefined;
      if (this.#isClosed || this.#options.leases().length === 0) return;
      void this.#check().then(() => this.start());
    });
  }

  close(): void {
    this.#isClosed = true;
    this.#cancel?.();
  }

  async #check(): Promise<void> {
    const { table, log } = this.#options;
    try {
      if (this.#isMissing()) await table.repair();
      else this.#readUsage();
    } catch (error) {
      log.error('restore the packet filter', { error: describeError(error) });
    }
  }

  /** Checks one lease per turn, since a flush removes the rules of all. */
  #isMissing(): boolean {
    const { leases, owner, probe } = this.#options;
    const installed = leases().flatMap(({ installedAddresses }) => installedAddresses ?? []);
    const addresses = installed[this.#checks % installed.length];
    this.#checks += 1;
    return addresses !== undefined && !probe.hasCounter(ownerCounter(addresses, owner));
  }

  #readUsage(): void {
    const { leases, probe } = this.#options;
    for (const [index, lease] of leases().entries()) {
      if ((this.#checks + index) % RECORD_TURNS === 0) lease.recordUse();
      if (lease.limits.bytesMax === undefined || lease.installedAddresses === undefined) continue;
      const used = probe.budgetUsed(lease.installedAddresses.id);
      if (used !== undefined) lease.updateBytesUsed(used);
    }
  }
}
