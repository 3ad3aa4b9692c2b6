/** The spec and policy of a managed sandbox, and its row in the store: written in turn, claimed from other processes. */
import type { LifetimePolicy, Provenance } from '../contract/request.ts';
import { type SandboxSpec, unwritten } from '../contract/spec.ts';
import type { SandboxRow } from '../store/sandbox-table.ts';
import type { EventJournal } from './event-journal.ts';
import type { Lifetime } from './lifetime.ts';
import type { Identity } from './managed-parts.ts';
import type { StateMachine } from './managed-state.ts';
import { RowWriter, type SandboxRows } from './sandbox-rows.ts';

export interface RowParts {
  readonly id: string;
  readonly provenance: Provenance;
  readonly rows: SandboxRows;
  readonly life: StateMachine;
  readonly lifetime: () => Pick<Lifetime, 'pauseReason' | 'timeoutLeftMs' | 'endsAtMs'>;
  readonly events: EventJournal;
  readonly onChange: () => void;
  readonly onOwnershipLost: () => void;
}

export class ManagedRow {
  spec: SandboxSpec;
  policy: LifetimePolicy;
  readonly writer: RowWriter;
  readonly #parts: RowParts;

  constructor({ spec, policy }: Pick<Identity, 'spec' | 'policy'>, parts: RowParts) {
    this.spec = spec;
    this.policy = policy;
    this.writer = new RowWriter(parts.rows);
    this.#parts = parts;
    const { events, life } = parts;
    events.listen(() => {
      if (!events.isShort || life.status !== 'running') return;
      void this.writer.write(() => (events.isShort && life.status === 'running' ? this.make(life.snapshotId) : null));
    });
  }

  /** Takes over what another process has changed meanwhile. @throws SandboxError `not_ready`, `gone` */
  async claim(): Promise<void> {
    if (this.#parts.life.isClaimed) return;
    const row = await this.orOwnershipLost(this.#parts.rows.claim(this.#parts.id));
    const stored = this.#parts.rows.parse(row);
    const { isDiskOnly = this.#parts.life.isDiskOnly } = stored ?? {};
    this.#parts.events.skipTo(stored?.lastEvent ?? 0);
    this.#parts.life.claim({ snapshotId: row.pausedSnapshotId, isDiskOnly });
    if (stored !== null) this.spec = { ...stored.spec, ...unwritten(stored.spec, this.spec) };
    this.policy = stored?.policy ?? this.policy;
  }

  /** Writes the row, which lets go of a claim. */
  async release(): Promise<void> {
    this.#parts.life.release();
    this.#parts.onChange();
    await this.persist();
  }

  /** On an error the control plane reads the sandbox from the store again. */
  async orOwnershipLost<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      this.#parts.onOwnershipLost();
      throw error;
    }
  }

  persist(): Promise<void> {
    return this.writer.write(() => this.make(this.#parts.life.snapshotId));
  }

  /** Stores what was used of the sandbox's budget for models, if it has one. */
  saveUse(): void {
    const hasBudget = Object.keys(this.spec.models.budget).length > 0;
    if (hasBudget && this.#parts.life.status === 'running') void this.persist();
  }

  make(
    pausedSnapshotId: string | null,
    end = this.#parts.life.end,
    isDiskOnly = this.#parts.life.isDiskOnly,
  ): SandboxRow {
    return this.#parts.rows.make({
      id: this.#parts.id,
      provenance: this.#parts.provenance,
      spec: this.spec,
      policy: this.policy,
      end,
      pausedSnapshotId,
      isDiskOnly,
      isPaused: this.#parts.life.status === 'paused',
      isClaimed: this.#parts.life.isClaimed,
      pauseReason: this.#parts.lifetime().pauseReason,
      timeoutLeftMs: this.#parts.lifetime().timeoutLeftMs,
      lastEvent: this.#parts.events.reserve(),
      endsAtMs: this.#parts.lifetime().endsAtMs,
    });
  }
}
