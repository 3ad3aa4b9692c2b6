/** The parts of a control plane that a managed sandbox needs. */
import type { Clock } from '../../base/clock.ts';
import type { Log } from '../../base/log.ts';
import type { PauseReason } from '../contract/control.ts';
import type { TimedEvent } from '../contract/events.ts';
import type { LifetimePolicy, Provenance } from '../contract/request.ts';
import type { SandboxSpec } from '../contract/spec.ts';
import type { Starter } from '../start/starter.ts';
import type { SandboxRows } from './sandbox-rows.ts';
import type { SnapshotManager } from './snapshot-manager.ts';

/** Data that is known before the first VM and stays the same for all VMs. */
export interface Identity {
  readonly spec: SandboxSpec;
  readonly policy: LifetimePolicy;
  readonly provenance: Provenance;
  /** Set for a paused sandbox. */
  readonly pauseReason?: PauseReason | null;
  /** See `Lifetime`. */
  readonly timeoutLeftMs?: number | null;
  /** The events of this process have higher numbers. */
  readonly lastEvent?: number;
  /** See `SandboxInfo`. */
  readonly foreignPause?: string | null;
}

/** @template S the managed sandbox */
export interface ManagedParts<S> {
  readonly clock: Clock;
  readonly log: Log;
  readonly accelerator: string;
  readonly snapshots: SnapshotManager;
  readonly rows: SandboxRows;
  /** Starts a VM from `source` once the queue admits it. */
  readonly start: Starter['startFrom'];
  /** True: what models were used is stored within 2 seconds, for the next process that holds the VM. Default: no. */
  readonly savesUse?: boolean;
  onChange(sandbox: S): void;
  onEvent(sandbox: S, event: TimedEvent): void;
  /** See `StartQueue.reserve`. */
  reserve(memoryMib: number): () => void;
  /** Called when another process may hold the suspended sandbox: this object may be out of date. */
  onOwnershipLost(sandbox: S): void;
}
