/**
 * The rows of sandboxes in the store: whose they are, and in which order one sandbox's are written.
 *
 *     running, paused in memory    owned by the process that holds the VM; it dies, they end: `host-lost`
 *     paused on the disk           nobody's: whoever changes it claims it first, and only one gets it
 *     ended                        nobody's
 *
 * An owner that was killed between its claim and its first write has lost nothing: the sandbox is on the
 * disk, and the next one may claim it.
 */
import type { Clock } from '../../base/clock.ts';
import { describeError, errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import type { SandboxRow } from '../../store/sandbox-table.ts';
import type { Store } from '../../store/store.ts';
import { endInfo, endWithoutVm, type SandboxEnd, type SandboxLogs } from '../ending.ts';
import { SandboxError } from '../errors.ts';
import type { LifetimePolicy, Provenance } from '../request.ts';
import type { ParseEgress, SandboxSpec } from '../spec.ts';
import { formatRequest, parseRequest, type StoredRequest } from './stored-request.ts';

export interface SandboxRowsParts {
  readonly store: Store;
  readonly clock: Clock;
  readonly log: Log;
  /** This host of sandboxes, so that others know when it is gone; no two have the same. */
  readonly ownerJson: string;
  isOwnerAlive(ownerJson: string): Promise<boolean>;
  readonly parseEgress: ParseEgress;
}

/** What a row is made of. */
export interface RowFacts {
  readonly id: string;
  readonly provenance: Provenance;
  readonly spec: SandboxSpec;
  readonly policy: LifetimePolicy;
  /** It is on the disk; null: it is not. */
  readonly pausedSnapshotId: string | null;
  /** Anywhere. */
  readonly isPaused: boolean;
  /** What is on the disk is ours. */
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

  /** Returns null for a row of another version. */
  parse(row: Pick<SandboxRow, 'requestJson' | 'metadata'>): StoredRequest | null {
    return parseRequest(row, this.#parts.parseEgress);
  }

  make(facts: RowFacts): SandboxRow {
    const { id, provenance, spec, policy, pausedSnapshotId, end } = facts;
    const { createdAtMs, parent, snapshot, origin } = provenance;
    const isOver = end !== null;
    const isOnDisk = pausedSnapshotId !== null;
    const isPaused = isOnDisk || facts.isPaused;
    const isNobodys = isOver || (isOnDisk && !facts.isClaimed);
    return {
      id,
      ownerJson: isNobodys ? null : this.ownerJson,
      status: isOver ? 'ended' : isPaused ? 'paused' : 'running',
      requestJson: formatRequest({ spec, policy, origin }),
      ...{ metadata: policy.metadata, createdAtMs, parent, snapshot, pausedSnapshotId },
      endsAtMs: isPaused ? null : facts.endsAtMs,
      end: isOver ? endInfo(end) : null,
      // Who removes a sandbox wants nothing of it to stay.
      ...(isOver && end.cause !== 'stopped' ? { log: endLog(end) } : {}),
    };
  }

  /** @throws StoreError */
  async keep(row: SandboxRow): Promise<void> {
    await this.#parts.store.sandboxes.put(row);
  }

  /** Failures are logged: a sandbox that can't be noted runs all the same. */
  async put(row: SandboxRow): Promise<void> {
    try {
      await this.keep(row);
    } catch (error) {
      const reason = describeError(error);
      this.#parts.log.error('a sandbox could not be noted', { sandbox: row.id, reason });
    }
  }

  /** Those on the disk, whoever has them, newest first. */
  async paused(): Promise<readonly PausedRow[]> {
    return (await this.#parts.store.sandboxes.list('paused')).filter(isOnDisk);
  }

  /** Of one that has ended and of which they are kept. */
  async logs(id: string): Promise<SandboxLogs | null> {
    const log = await this.#parts.store.sandboxes.log(id);
    return log === null ? null : { console: log.console.toString(), vmm: log.vmm.toString() };
  }

  /** One that has ended, also in another process; undefined: none, or it has not. */
  async ended(id: string): Promise<SandboxRow | undefined> {
    const row = await this.#get(id);
    return row?.end === null ? undefined : row;
  }

  /** All that have ended and are not forgotten, also in other processes. */
  async allEnded(): Promise<readonly SandboxRow[]> {
    return await this.#parts.store.sandboxes.list('ended');
  }

  /**
   * Makes one that is on the disk ours.
   * @throws SandboxError `not_ready`: another process has it; `gone`
   */
  async claim(id: string): Promise<PausedRow> {
    const { store, ownerJson, isOwnerAlive } = this.#parts;
    const found = await this.#get(id);
    if (found === undefined || found.status === 'ended') {
      throw new SandboxError('gone', `sandbox ${id} has ended`);
    }
    const { ownerJson: owner } = found;
    const isFree = owner === null || owner === ownerJson || !(await isOwnerAlive(owner));
    if (isFree && isOnDisk(found) && (await store.sandboxes.claim(id, owner, ownerJson))) {
      // It may have run and been paused again since it was looked at.
      const row = await this.#get(id);
      if (row !== undefined && isOnDisk(row)) return row;
    }
    throw new SandboxError('not_ready', `sandbox ${id} is held by another process`, {
      remedy: 'ask that process, or wait until it has paused or ended the sandbox',
    });
  }

  /** It is still on the disk, for everybody. */
  async release(id: string): Promise<void> {
    const { store, log, ownerJson } = this.#parts;
    try {
      await store.sandboxes.claim(id, ownerJson, null);
    } catch (error) {
      // While this process lives nobody else gets it; it can claim it again itself.
      log.warn('a sandbox stays claimed', { sandbox: id, reason: describeError(error) });
    }
  }

  /** Sandboxes whose process was killed have ended; who asks gets to know it. */
  async reconcile(): Promise<void> {
    const { store, log, clock, isOwnerAlive } = this.#parts;
    for (const row of await store.sandboxes.list()) {
      const { id, ownerJson: owner } = row;
      if (row.status === 'ended') continue;
      if (owner !== null && (await isOwnerAlive(owner))) continue;
      if (isOnDisk(row)) {
        if (owner !== null) await store.sandboxes.claim(id, owner, null);
        continue;
      }
      const detail = 'the process that held it was killed';
      const end = endInfo(endWithoutVm('host-lost', detail, clock.wall()));
      const ended = { ownerJson: null, status: 'ended', pausedSnapshotId: null, end } as const;
      await this.put({ ...row, ...ended, endsAtMs: null });
      log.info('a sandbox ended with the process that held it', { sandbox: id });
    }
  }

  async #get(id: string): Promise<SandboxRow | undefined> {
    try {
      return await this.#parts.store.sandboxes.get(id);
    } catch (error) {
      if (errorCode(error) !== 'not_found') throw error;
      ignore(error, 'there is no such sandbox');
      return undefined;
    }
  }
}

/** One sandbox's rows, one after another; each is made when its turn has come, so none is out of date. */
export class RowWriter {
  readonly #rows: SandboxRows;
  #last: Promise<void> = Promise.resolve();

  constructor(rows: SandboxRows) {
    this.#rows = rows;
  }

  /** Never rejects. @param make null: there is nothing to write any more */
  write(make: () => SandboxRow | null): Promise<void> {
    return this.inTurn(async () => {
      const row = make();
      if (row !== null) await this.#rows.put(row);
    });
  }

  /** For a row that something else writes. Rejects as `work` does. */
  inTurn(work: () => Promise<void>): Promise<void> {
    const turn = this.#last.then(work);
    this.#last = turn.catch((error: unknown) => ignore(error, 'told to who asked for it'));
    return turn;
  }
}

function endLog({ console, vmmLog }: SandboxEnd): SandboxRow['log'] {
  return { console: Buffer.from(console), vmm: Buffer.from(vmmLog) };
}

function isOnDisk(row: SandboxRow): row is PausedRow {
  return row.status === 'paused' && row.pausedSnapshotId !== null;
}
