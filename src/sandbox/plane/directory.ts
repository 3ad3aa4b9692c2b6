/**
 * The sandboxes that this process knows, by their id: those with a VM here, those that are paused to disk, and those
 * that have ended.
 */
import { parseSandboxId } from '../../base/ids.ts';
import { Listeners } from '../../base/listeners.ts';
import type { Tracer } from '../../base/trace/trace.ts';
import type { SandboxFilter, SandboxInfo } from '../contract/control.ts';
import { SandboxError, translateStoreErrors } from '../contract/errors.ts';
import type { Provenance } from '../contract/request.ts';
import { ENDED_MAX, EndedSandboxes } from './ended.ts';
import { ManagedSandbox } from './managed.ts';
import type { ManagedParts } from './managed-parts.ts';
import { isOnDisk, type PausedRow } from './sandbox-rows.ts';

export class Directory {
  readonly #managed: ManagedParts<ManagedSandbox>;
  readonly #tracer: Tracer;
  readonly #sandboxes = new Map<string, ManagedSandbox>();
  readonly #ended: EndedSandboxes;
  /** Ended sandboxes whose end is not yet on disk, or that still work on a save. */
  readonly #ending = new Map<string, ManagedSandbox>();
  readonly #changes = new Listeners<SandboxInfo>();
  #complete: Promise<void> = Promise.resolve();

  constructor(managed: ManagedParts<ManagedSandbox>, tracer: Tracer) {
    this.#managed = managed;
    this.#tracer = tracer;
    this.#ended = new EndedSandboxes(managed.rows, managed.accelerator);
  }

  /** Until then, sandboxes may be missing: look-ups wait. */
  waitFor(complete: Promise<void>): void {
    this.#complete = complete;
  }

  /** Sandboxes that have not ended. */
  get sandboxes(): readonly ManagedSandbox[] {
    return [...this.#sandboxes.values()];
  }

  get ending(): readonly ManagedSandbox[] {
    return [...this.#ending.values()];
  }

  /** The sandbox if it is in memory, whether another process may have changed it or not. */
  known(id: string): ManagedSandbox | undefined {
    return this.#sandboxes.get(id);
  }

  async list(filter: SandboxFilter = {}): Promise<readonly SandboxInfo[]> {
    await this.#complete;
    const { name } = filter;
    const isHere = this.sandboxes.some((one) => one.policy.name === name && one.pausedSnapshotId === null);
    // Spares look-ups by name the store.
    if (!isHere) await this.#readPaused();
    const withEnded = filter.status?.includes('ended') === true;
    const ended = withEnded ? await this.#ended.all((id) => this.#sandboxes.has(id)) : [];
    const pairs = Object.entries(filter.metadata ?? {});
    const fits = ({ status, metadata, ...info }: SandboxInfo): boolean =>
      (name ?? info.name) === info.name &&
      (filter.status?.includes(status) ?? true) &&
      pairs.every(([key, value]) => metadata[key] === value);
    const newestFirst = (a: SandboxInfo, b: SandboxInfo): number => b.createdAtMs - a.createdAtMs;
    const here = this.sandboxes.map((one) => one.info()).filter(fits);
    const over = ended.filter(fits).sort(newestFirst).slice(0, ENDED_MAX);
    return [...here, ...over].sort(newestFirst);
  }

  async get(id: string): Promise<SandboxInfo> {
    const found = await this.#lookUp(id);
    return found instanceof ManagedSandbox ? found.info() : (found ?? missing(id));
  }

  /** @throws SandboxError `not_found`, `gone` */
  async find(id: string): Promise<ManagedSandbox> {
    const found = (await this.#lookUp(id)) ?? missing(id);
    if (found instanceof ManagedSandbox) return found;
    const { cause, detail } = found.end ?? { cause: 'unknown', detail: '' };
    const because = detail === '' ? {} : { cause: detail };
    throw new SandboxError('gone', `sandbox ${id} has ended: ${cause}`, because);
  }

  /** An ended sandbox of this or another process; null: not ended. */
  async endOf(id: string): Promise<SandboxInfo | null> {
    const found = await this.#lookUp(id);
    return found === undefined || found instanceof ManagedSandbox ? null : found;
  }

  /** Reads at most the row of this sandbox. @returns its end if it has ended */
  async #lookUp(id: string): Promise<ManagedSandbox | SandboxInfo | undefined> {
    await this.#complete;
    const end = this.#ended.own(id);
    if (end !== undefined) return end;
    const before = this.#sandboxes.get(id);
    const as = before?.pausedSnapshotId;
    if (as === null) return before;
    if (parseSandboxId(id) === undefined) return undefined;
    const row = await translateStoreErrors(this.#managed.rows.find(id));
    if (row !== undefined && row.end !== null) return this.#ended.info(row);
    const paused = row !== undefined && isOnDisk(row) ? row : undefined;
    if (before !== undefined && as !== paused?.pausedSnapshotId) this.#forgetPause(before, as);
    if (paused !== undefined) await this.#addPaused(paused);
    return this.#sandboxes.get(id) ?? this.#ended.own(id);
  }

  /** Resolves when the end of the sandbox is on disk. Does nothing unless the sandbox is ending in this process. */
  async endPersisted(id: string): Promise<void> {
    await this.#ending.get(id)?.endPersisted;
  }

  /** Notes a change of a sandbox of this process. */
  changed(sandbox: ManagedSandbox): void {
    const info = sandbox.info();
    if (info.status === 'running') this.#sandboxes.set(sandbox.id, sandbox);
    if (info.status === 'ended') {
      this.forget(sandbox);
      this.#tracer.forget(sandbox.id);
      this.#ended.add(info);
      this.#ending.set(sandbox.id, sandbox);
      const over = Promise.all([sandbox.endPersisted, sandbox.drain()]);
      void over.then(() => this.#ending.delete(sandbox.id));
    }
    this.#changes.emit(info);
  }

  forget(sandbox: ManagedSandbox): void {
    if (this.#sandboxes.get(sandbox.id) === sandbox) this.#sandboxes.delete(sandbox.id);
  }

  onChange(listener: (info: SandboxInfo) => void): () => void {
    return this.#changes.listen(listener);
  }

  /**
   * Suspended sandboxes are shared by all processes with this store, so their rows may have changed. Reads whole rows
   * only of those that are new here: unsealing all of them would take the event loop at each list.
   */
  async #readPaused(): Promise<void> {
    const known = this.sandboxes.map((one) => ({ one, as: one.pausedSnapshotId }));
    const { rows } = this.#managed;
    const pauses = await translateStoreErrors(rows.pauses());
    const snapshots = new Set(pauses.map(({ pausedSnapshotId }) => pausedSnapshotId));
    for (const { one, as } of known) {
      if (as !== null && !snapshots.has(as)) this.#forgetPause(one, as);
    }
    for (const { id } of pauses) {
      if (this.#sandboxes.has(id) || this.#ended.has(id)) continue;
      const row = await translateStoreErrors(rows.find(id));
      if (row !== undefined && isOnDisk(row)) await this.#addPaused(row);
    }
  }

  /** @param as its pause before the store was read: it may have changed in this process since then */
  #forgetPause(sandbox: ManagedSandbox, as: string | undefined): void {
    if (as === sandbox.pausedSnapshotId) this.forget(sandbox);
  }

  async #addPaused(row: PausedRow): Promise<void> {
    const { rows, snapshots } = this.#managed;
    const isKnown = (): boolean => this.#sandboxes.has(row.id) || this.#ended.has(row.id);
    if (isKnown()) return;
    const foreignPause = await translateStoreErrors(snapshots.foreignMaker(row.pausedSnapshotId));
    const { id, pausedSnapshotId: snapshotId, snapshot, parent, createdAtMs } = row;
    const stored = isKnown() ? null : rows.parse(row);
    if (stored === null) return;
    const { spec, policy, origin, template, ...paused } = stored;
    const provenance: Provenance = { origin, snapshot, template, parent, createdAtMs };
    const made = { ...paused, spec, policy, provenance, snapshotId, foreignPause };
    this.#sandboxes.set(id, ManagedSandbox.suspended(this.#managed, made));
  }
}

function missing(id: string): never {
  throw new SandboxError('not_found', `there is no sandbox ${id}`, { remedy: 'neurovisor ls' });
}
