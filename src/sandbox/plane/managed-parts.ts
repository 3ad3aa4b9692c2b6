/** What a managed sandbox needs of its host (types only). */
import type { Clock } from '../../base/clock.ts';
import type { Log } from '../../base/log.ts';
import type { CloneSource } from '../parts.ts';
import type { SandboxSpec } from '../spec.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import type { TimedEvent } from './event-journal.ts';
import type { ManagedSandbox } from './managed.ts';
import type { SandboxRows } from './sandbox-rows.ts';
import type { Keeper } from './snapshot-manager.ts';

export interface ManagedParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly accelerator: string;
  readonly keeper: Keeper;
  readonly rows: SandboxRows;
  /** Queued: a supervisor for `spec` that goes on from `source`, started. */
  start(spec: SandboxSpec, source: CloneSource, signal: AbortSignal): Promise<Supervisor>;
  changed(sandbox: ManagedSandbox): void;
  /** Something happened to it that may need an answer. */
  happened(sandbox: ManagedSandbox, event: TimedEvent): void;
  /** It is on the disk, and what is known of it here may be out of date: another process may have it. */
  lost(sandbox: ManagedSandbox): void;
}
