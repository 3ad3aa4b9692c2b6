/** Changes of a managed sandbox by its owner, in its row and in its VM. */
import type { SandboxError } from '../contract/errors.ts';
import { changeLifetime, type LifetimeChange } from '../contract/request.ts';
import { hasSecretChange, type SandboxSpec, withSecrets } from '../contract/spec.ts';
import { checkResize } from '../memory/size.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import type { Lifetime } from './lifetime.ts';
import type { ManagedRow } from './managed-row.ts';
import { pausedToOf, type StateMachine } from './managed-state.ts';
import { changeModels, changeVm, hasVmChange, type SandboxUpdate } from './sandbox-update.ts';
import type { SerialQueue } from './serial-queue.ts';

export interface ChangeParts {
  readonly row: ManagedRow;
  readonly life: StateMachine;
  readonly lifetime: Lifetime;
  readonly queue: SerialQueue;
  /** @see ManagedSandbox.live */
  readonly live: () => Promise<Supervisor>;
  /** @throws SandboxError `not_ready`, `gone` */
  readonly requireRunning: () => Supervisor;
  readonly refusal: () => SandboxError;
  /** @see StartQueue.reserve */
  readonly reserve: (memoryMib: number) => () => void;
  readonly onChange: () => void;
}

export class SandboxChanges {
  readonly #parts: ChangeParts;

  constructor(parts: ChangeParts) {
    this.#parts = parts;
  }

  /**
   * Changes all that is given, or nothing: if a part fails, those before it are undone; the error names the
   * parts that could not be. Resumes a paused sandbox as `guest` does, except where only the secrets or the
   * policy of a suspended one change.
   */
  async update(change: SandboxUpdate): Promise<void> {
    const hasSecrets = hasSecretChange(change);
    // Reported before anything is claimed or resumed.
    if (hasSecrets) withSecrets(this.#parts.row.spec, change);
    if (change.memoryMib !== undefined) checkResize(this.#parts.row.spec, change.memoryMib);
    if (!hasSecrets && !hasVmChange(change)) return await this.#changePolicy(change.policy);
    const before = this.#parts.row.spec;
    const isOnDisk = this.#parts.life.snapshotId !== null;
    // A suspended sandbox may need the values to be resumed.
    const undoSecrets = hasSecrets && isOnDisk ? await this.#changeOnDisk(change) : undefined;
    if (undoSecrets !== undefined && !hasVmChange(change)) return;
    try {
      await this.#parts.live();
    } catch (error) {
      await undoSecrets?.();
      throw error;
    }
    await this.#parts.queue.run(() => this.#changeInVm(change, before));
  }

  async #changeInVm(change: SandboxUpdate, before: SandboxSpec): Promise<void> {
    const supervisor = this.#parts.requireRunning();
    const { memoryMib } = change;
    // Against the state at its turn: placeholders of another change stay.
    const changed = hasSecretChange(change) ? withSecrets(this.#parts.row.spec, change) : undefined;
    const moreMib = (memoryMib ?? 0) - this.#parts.row.spec.memoryMib;
    const release = moreMib > 0 ? this.#parts.reserve(moreMib) : undefined;
    try {
      await changeVm(supervisor, { ...change, secrets: changed }, before);
      this.#apply(change.policy);
    } finally {
      release?.();
      this.#parts.row.spec = supervisor.spec;
      this.#parts.onChange();
      await this.#parts.row.persist();
    }
  }

  /** Changes the secrets in the row, and the policy if the VM needs no change. Returns how to undo it. */
  async #changeOnDisk(change: SandboxUpdate): Promise<(() => Promise<void>) | undefined> {
    const { policy } = change;
    return await this.#parts.queue.run(async () => {
      if (this.#parts.life.isOver) throw this.#parts.refusal();
      if (this.#parts.life.snapshotId === null) return undefined;
      await this.#parts.row.claim();
      const { secrets: before, network } = this.#parts.row.spec;
      try {
        this.#parts.row.spec = withSecrets(this.#parts.row.spec, change);
        if (!hasVmChange(change)) this.#apply(policy);
      } finally {
        await this.#parts.row.release();
      }
      return () =>
        this.#parts.queue.run(async () => {
          if (this.#parts.life.state.kind !== 'suspended') return;
          await this.#parts.row.claim();
          this.#parts.row.spec = { ...this.#parts.row.spec, secrets: before, network };
          await this.#parts.row.release();
        });
    });
  }

  /** A timeout counts anew only if it is given. */
  async #changePolicy(change: LifetimeChange): Promise<void> {
    if (this.#parts.life.isOver) throw this.#parts.refusal();
    if (this.#parts.life.snapshotId === null) {
      this.#apply(change);
      // A pause may be committed before the row's turn; from then on any process may own the row.
      await this.#parts.row.writer.write(() =>
        this.#parts.life.snapshotId === null ? this.#parts.row.make(null) : null,
      );
      if (this.#parts.life.snapshotId === null) return;
    }
    await this.#parts.queue.run(async () => {
      if (this.#parts.life.isOver) throw this.#parts.refusal();
      if (this.#parts.life.snapshotId !== null) await this.#parts.row.claim();
      this.#apply(change);
      await this.#parts.row.release();
    });
  }

  /** Gives a running guest that is close to OOM more memory. */
  async growMemory(memoryMib: number): Promise<void> {
    await this.#parts.queue.run(async () => {
      const supervisor = this.#parts.requireRunning();
      await supervisor.settings.resizeMemory(memoryMib, 'pressure').finally(() => {
        this.#parts.row.spec = supervisor.spec;
        this.#parts.onChange();
      });
    });
  }

  #apply({ models, ...change }: LifetimeChange): void {
    if (models) this.#parts.row.spec = changeModels(this.#parts.row.spec, models, this.#parts.life.supervisor);
    this.#parts.row.policy = changeLifetime(this.#parts.row.policy, change);
    const counts = pausedToOf(this.#parts.life.state) === null && this.#parts.life.snapshotId === null;
    if (change.timeoutMs !== undefined) this.#parts.lifetime.forgetLeft();
    if (counts && change.timeoutMs !== undefined) this.#parts.lifetime.startTimeout();
    if (counts && change.idleTimeoutMs !== undefined) this.#parts.lifetime.startIdle();
    this.#parts.onChange();
  }
}
