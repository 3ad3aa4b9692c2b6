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

export class Directory {
  readonly #managed: ManagedParts<ManagedSandbox>;
  readonly #tracer: Tracer;
  readonly #sandboxes = new Map<string, ManagedSandbox>();
  readonly #ended: EndedSandboxes;
  /** Ended sandboxes whose end is not yet on disk, or that still work on a save. */
  readonly #ending = new Map<string, ManagedSandbox>();
  readonly #changes = new Listeners<SandboxInfo>();

  constructor(managed: ManagedParts<ManagedSandbox>, tracer: Tracer) {
    this.#managed = managed;
    this.#tracer = tracer;
    this.#ended = new EndedSandboxes(managed.rows, managed.accelerator);
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
    await this.#readPaused();
    const withEnded = filter.status?.includes('ended') === true;
    const ended = withEnded ? await this.#ended.all((id) => this.#sandboxes.has(id)) : [];
    const pairs = Object.entries(filter.metadata ?? {});
    const fits = ({ status, metadata }: SandboxInfo): boolean =>
      (filter.status?.includes(status) ?? true) && pairs.every(([key, value]) => metadata[key] === value);
    const newestFirst = (a: SandboxInfo, b: SandboxInfo): number => b.createdAtMs - a.createdAtMs;
    const here = this.sandboxes.map((one) => one.info()).filter(fits);
    const over = ended.filter(fits).sort(newestFirst).slice(0, ENDED_MAX);
    return [...here, ...over].sort(newestFirst);
  }

  async get(id: string): Promise<SandboxInfo> {
    return (await this.endOf(id)) ?? (await this.find(id)).info();
  }

  /** @throws SandboxError `not_found`, `gone` */
  async find(id: string): Promise<ManagedSandbox> {
    const known = this.#sandboxes.get(id);
    if (known !== undefined && known.pausedSnapshotId === null) return known;
    const ended = await this.endOf(id);
    if (ended !== null) {
      const { cause, detail } = ended.end ?? { cause: 'unknown', detail: '' };
      const because = detail === '' ? {} : { cause: detail };
      throw new SandboxError('gone', `sandbox ${id} has ended: ${cause}`, because);
    }
    if (parseSandboxId(id) !== undefined) await this.#readPaused();
    const found = this.#sandboxes.get(id);
    if (found !== undefined) return found;
    throw new SandboxError('not_found', `there is no sandbox ${id}`, { remedy: 'neurovisor ls' });
  }

  /** An ended sandbox of this or another process; null: not ended. */
  async endOf(id: string): Promise<SandboxInfo | null> {
    const known = this.#ended.own(id);
    if (known !== undefined) return known;
    if (this.#sandboxes.get(id)?.pausedSnapshotId === null || parseSandboxId(id) === undefined) return null;
    return await this.#ended.stored(id);
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

  /** Suspended sandboxes are shared by all processes with this store, so their rows may have changed. */
  async #readPaused(): Promise<void> {
    const { rows } = this.#managed;
    const known = this.sandboxes.map((one) => ({ one, as: one.pausedSnapshotId }));
    const paused = await translateStoreErrors(rows.paused());
    const snapshots = new Set(paused.map(({ pausedSnapshotId }) => pausedSnapshotId));
    for (const { one, as } of known) {
      if (as !== null && as === one.pausedSnapshotId && !snapshots.has(as)) this.forget(one);
    }
    for (const row of paused) {
      const { id, pausedSnapshotId: snapshotId } = row;
      const stored = this.#sandboxes.has(id) || this.#ended.has(id) ? null : rows.parse(row);
      if (stored === null) continue;
      const { spec, policy, origin, template, isDiskOnly, pauseReason } = stored;
      const { snapshot, parent, createdAtMs } = row;
      const provenance: Provenance = { origin, snapshot, template, parent, createdAtMs };
      const made = { spec, policy, provenance, snapshotId, isDiskOnly, pauseReason };
      this.#sandboxes.set(id, ManagedSandbox.suspended(this.#managed, made));
    }
  }
}
