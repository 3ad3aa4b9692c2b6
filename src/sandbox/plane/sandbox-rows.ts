/**
 * The rows of sandboxes in the store: their owners, and the order of writes for one sandbox.
 *
 *     running, paused in memory    owned by the process that holds the VM; ends with it (`host-lost`)
 *     suspended (paused to disk)   without an owner; a process claims it before a change, and only one succeeds
 *     ended                        without an owner
 *
 * If an owner is killed between claim and first write, nothing is lost: the next process may claim the sandbox.
 */
import type { Clock } from '../../base/clock.ts';
import { describeError, ifThere } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import type { BudgetUse } from '../../base/request/model-limits.ts';
import type { PauseReason } from '../contract/control.ts';
import { endInfo, endWithoutVm, type SandboxEnd, type SandboxLogs } from '../contract/ending.ts';
import { SandboxError } from '../contract/errors.ts';
import type { ParseEgress } from '../contract/network-spec.ts';
import type { LifetimePolicy, Provenance } from '../contract/request.ts';
import type { SandboxSpec } from '../contract/spec.ts';
import type { Pause, SandboxRow } from '../store/sandbox-table.ts';
import type { Store } from '../store/store.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import { formatRequest, parseRequest, type StoredRequest } from './stored-request.ts';

export interface SandboxRowsParts {
  readonly store: Store;
  readonly clock: Clock;
  readonly log: Log;
  /** Unique id of this control plane; other processes use it to check whether it is alive. */
  readonly ownerJson: string;
  isOwnerAlive(ownerJson: string): Promise<boolean>;
  readonly parseEgress: ParseEgress;
  /** Usage of a model budget; `null` if the account is unknown. Omitted without models. */
  readonly modelUse?: ((account: string) => BudgetUse | null) | undefined;
}

export interface RowFacts {
  readonly id: string;
  readonly provenance: Provenance;
  readonly spec: SandboxSpec;
  readonly policy: LifetimePolicy;
  /** `null` if not on disk. */
  readonly pausedSnapshotId: string | null;
  /** The snapshot has no memory. */
  readonly isDiskOnly: boolean;
  /** Paused to memory or disk. */
  readonly isPaused: boolean;
  /** Why it was paused, if not by request. */
  readonly pauseReason: PauseReason | null;
  /** See `Lifetime`. */
  readonly timeoutLeftMs: number | null;
  /** See `EventJournal.reserve`. */
  readonly lastEvent: number;
  /** Whether this process owns the suspended sandbox. */
  readonly isClaimed: boolean;
  readonly endsAtMs: number | null;
  readonly end: SandboxEnd | null;
}

export interface PausedRow extends SandboxRow {
  readonly pausedSnapshotId: string;
}

export class SandboxRows {
  readonly #parts: SandboxRowsParts;

  constructor(parts: SandboxRowsParts) {
    this.#parts = parts;
  }

  get ownerJson(): string {
    return this.#parts.ownerJson;
  }

  /** Returns `null` for a row of another version. */
  parse(row: Pick<SandboxRow, 'requestJson' | 'metadata'>): StoredRequest | null {
    return parseRequest(row, this.#parts.parseEgress);
  }

  /** Returns the spec with its model budget's usage so far. */
  withModelUse(spec: SandboxSpec): SandboxSpec {
    if (Object.keys(spec.models.budget).length === 0) return spec;
    const { id, used: before } = spec.modelAccount ?? { id: spec.id };
    const used = this.#parts.modelUse?.(id) ?? before;
    return used === undefined ? spec : { ...spec, modelAccount: { id, used } };
  }

  /** The spec to store for a sandbox whose VM ends with a pause. */
  async specToKeep({ spec, card }: Pick<Supervisor, 'spec' | 'card'>): Promise<SandboxSpec> {
    return this.withModelUse({ ...spec, network: await card.networkToKeep() });
  }

  make(facts: RowFacts): SandboxRow {
    const { id, provenance, spec, policy, pausedSnapshotId, isDiskOnly, end } = facts;
    const { createdAtMs, parent, snapshot, origin, template } = provenance;
    const isOver = end !== null;
    const isOnDisk = pausedSnapshotId !== null;
    const isPaused = isOnDisk || facts.isPaused;
    const hasNoOwner = isOver || (isOnDisk && !facts.isClaimed);
    return {
      id,
      ownerJson: hasNoOwner ? null : this.ownerJson,
      status: isOver ? 'ended' : isPaused ? 'paused' : 'running',
      requestJson: formatRequest({
        spec: this.withModelUse(spec),
        policy,
        origin,
        template,
        isDiskOnly,
        pauseReason: isPaused ? facts.pauseReason : null,
        timeoutLeftMs: isPaused ? facts.timeoutLeftMs : null,
        lastEvent: facts.lastEvent,
      }),
      metadata: policy.metadata,
      createdAtMs,
      parent,
      snapshot,
      pausedSnapshotId,
      endsAtMs: isPaused ? null : facts.endsAtMs,
      end: isOver ? endInfo(end) : null,
      volumes: spec.volumes,
      // An explicit removal also deletes the logs.
      ...(isOver && end.cause !== 'stopped' ? { log: endLog(end) } : {}),
    };
  }

  /** @throws StoreError */
  async keep(row: SandboxRow): Promise<void> {
    await this.#parts.store.sandboxes.put(row);
  }

  /** Logs failures: a sandbox runs even if its row can't be written. */
  async put(row: SandboxRow): Promise<void> {
    try {
      await this.keep(row);
    } catch (error) {
      const reason = describeError(error);
      this.#parts.log.error('the row of a sandbox could not be written', { sandbox: row.id, reason });
    }
  }

  /** Suspended sandboxes of all processes, newest first. */
  pauses(): Promise<readonly Pause[]> {
    return this.#parts.store.sandboxes.pauses();
  }

  async logs(id: string): Promise<SandboxLogs | null> {
    const log = await this.#parts.store.sandboxes.log(id);
    return log === null ? null : { console: log.console.toString(), vmm: log.vmm.toString() };
  }

  /** The row of a sandbox of any process. */
  find(id: string): Promise<SandboxRow | undefined> {
    return ifThere(this.#parts.store.sandboxes.get(id), 'not_found');
  }

  /** Ids of the sandboxes of all processes that ended last. */
  ended(most: number): Promise<readonly string[]> {
    return this.#parts.store.sandboxes.ended(most);
  }

  /**
   * Takes ownership of a suspended sandbox.
   * @throws SandboxError `not_ready` if another process has it; `gone`
   */
  async claim(id: string): Promise<PausedRow> {
    const { store, ownerJson, isOwnerAlive } = this.#parts;
    const found = await this.find(id);
    if (found === undefined || found.status === 'ended') {
      throw new SandboxError('gone', `sandbox ${id} has ended`);
    }
    const { ownerJson: owner } = found;
    const isFree = owner === null || owner === ownerJson || !(await isOwnerAlive(owner));
    if (isFree && isOnDisk(found) && (await store.sandboxes.claim(id, owner, ownerJson))) {
      // The sandbox may have run and been paused again since the row was read.
      const row = await this.find(id);
      if (row !== undefined && isOnDisk(row)) return row;
    }
    throw new SandboxError('not_ready', `sandbox ${id} is held by another process`, {
      remedy: 'ask that process, or wait until it has paused or ended the sandbox',
    });
  }

  async release(id: string): Promise<void> {
    const { store, log, ownerJson } = this.#parts;
    try {
      await store.sandboxes.claim(id, ownerJson, null);
    } catch (error) {
      // Until this process ends, only it can claim the sandbox again.
      log.warn('a sandbox stays claimed', { sandbox: id, reason: describeError(error) });
    }
  }

  /** Marks the sandboxes of killed processes as ended. @param left those whose VMs may be taken over */
  async reconcile(left: readonly string[] = []): Promise<void> {
    for (const row of await this.#parts.store.sandboxes.list())
      if (!left.includes(row.id)) await this.reconcileOne(row);
  }

  /** Does nothing for a row that has ended, or whose owner lives. @param why the VM is lost, if its process was not all */
  async reconcileOne(row: SandboxRow, why?: string): Promise<void> {
    const { store, log, clock, isOwnerAlive } = this.#parts;
    const { id, ownerJson: owner } = row;
    if (row.status === 'ended') return;
    if (owner !== null && (await isOwnerAlive(owner))) return;
    if (isOnDisk(row)) {
      if (owner !== null) await store.sandboxes.claim(id, owner, null);
      return;
    }
    const detail = 'the process that held it was killed';
    const end = endInfo(endWithoutVm('host-lost', why === undefined ? detail : `${detail}, and ${why}`, clock.wall()));
    const ended = { ownerJson: null, status: 'ended', pausedSnapshotId: null, end } as const;
    await this.put({ ...row, ...ended, endsAtMs: null });
    log.info('a sandbox ended with the process that held it', { sandbox: id });
  }
}

/** Writes the rows of one sandbox one after another. Each row is made in its turn, so none is out of date. */
export class RowWriter {
  readonly #rows: SandboxRows;
  #last: Promise<void> = Promise.resolve();

  constructor(rows: SandboxRows) {
    this.#rows = rows;
  }

  /** Never rejects. @param make returns `null` if there is nothing left to write */
  write(make: () => SandboxRow | null): Promise<void> {
    return this.inTurn(async () => {
      const row = make();
      if (row !== null) await this.#rows.put(row);
    });
  }

  /** For work that writes the row itself. Rejects as `work` does. */
  inTurn(work: () => Promise<void>): Promise<void> {
    const turn = this.#last.then(work);
    this.#last = turn.catch((error: unknown) => ignore(error, 'reported to the caller'));
    return turn;
  }
}

function endLog({ console, vmmLog }: SandboxEnd): SandboxRow['log'] {
  return { console: Buffer.from(console), vmm: Buffer.from(vmmLog) };
}

export function isOnDisk(row: SandboxRow): row is PausedRow {
  return row.status === 'paused' && row.pausedSnapshotId !== null;
}
