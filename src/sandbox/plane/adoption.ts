/**
 * Sandboxes of a killed process whose VMs live on: each is taken over, or ends as `host-lost` with the reason.
 *
 *     row running, or paused in memory ─► the VM, with a new channel ─► hello ─► running (─► paused again)
 *     row on disk or ended, or no row  ─► the VM ends: the row is the truth
 */
import { availableParallelism } from 'node:os';
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { timeLimit } from '../../base/time-limit.ts';
import { SandboxError } from '../contract/errors.ts';
import { type Provenance, SESSION_ANNOTATION } from '../contract/request.ts';
import { requireValues } from '../contract/secrets.ts';
import type { SandboxSpec } from '../contract/spec.ts';
import type { StartGate } from '../start/start-gate.ts';
import type { SandboxRow } from '../store/sandbox-table.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import { ManagedSandbox } from './managed.ts';
import type { ManagedParts } from './managed-parts.ts';
import type { SandboxRows } from './sandbox-rows.ts';
import type { StoredRequest } from './stored-request.ts';

/** From the first look at a VM until its agent has said hello. */
export const ADOPT_MS_MAX = 15_000;

/** VMs that outlived the process that held them. */
export interface LeftVms {
  readonly ids: readonly string[];
  /** When that process was lost, Unix time in ms; null: unknown. */
  readonly lostAtMs: number | null;
  /** A supervisor whose start takes the VM over. @throws VmmError `vm_gone` */
  supervise(spec: SandboxSpec, id: string, sharers: string | null): Supervisor;
  /** The VM is this process's, or was ended. */
  forget(id: string): void;
  /** Ends the VM. Idempotent. */
  end(id: string): Promise<void>;
}

export interface AdoptionParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly left: LeftVms;
  readonly managed: ManagedParts<ManagedSandbox>;
  readonly gate: StartGate;
}

/** Takes over all that can be, as many at the same time as there are processors. Never rejects. */
export async function adoptAll(parts: AdoptionParts): Promise<void> {
  const { left, log } = parts;
  const waiting = [...left.ids];
  const worker = async (): Promise<void> => {
    for (let id = waiting.shift(); id !== undefined; id = waiting.shift()) {
      try {
        await adopt(parts, id);
      } catch (error) {
        log.error('a VM of a killed process could not be ended', { sandbox: id, reason: describeError(error) });
      }
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
}

/** What a tenant's VM may do is known before it goes on: to whom it belongs, and that it counts. */
export async function countLeft(left: LeftVms, rows: SandboxRows, gate: StartGate): Promise<void> {
  for (const id of left.ids) {
    const found = await findLeft(rows, id);
    if (found?.stored == null) continue;
    const { policy, spec } = found.stored;
    const { memoryMib, memoryMaxMib, diskMib } = spec;
    gate.restores({ annotations: policy.annotations, id, memoryMib: memoryMaxMib ?? memoryMib, diskMib });
  }
}

/** `stored` is null if the VM is not its sandbox, or its row is of another version. */
async function findLeft(
  rows: SandboxRows,
  id: string,
): Promise<{ row: SandboxRow; stored: StoredRequest | null } | null> {
  const row = await rows.find(id);
  if (row === undefined) return null;
  const isOver = row.status === 'ended' || row.pausedSnapshotId !== null;
  return { row, stored: isOver ? null : rows.parse(row) };
}

async function adopt({ clock, log, left, managed, gate }: AdoptionParts, id: string): Promise<void> {
  const { rows } = managed;
  const found = await findLeft(rows, id);
  if (found?.stored == null) {
    try {
      await left.end(id);
    } finally {
      if (found !== null) await rows.reconcileOne(found.row, 'another version had stored it');
    }
    return;
  }
  const { row, stored } = found;
  let supervisor: Supervisor | undefined;
  try {
    requireAdoptable(stored);
    supervisor = left.supervise(stored.spec, id, gate.sharersOf(stored.policy.annotations));
    using limit = timeLimit(clock, ADOPT_MS_MAX);
    await supervisor.start(limit.signal);
    left.forget(id);
  } catch (error) {
    const reason = describeError(error);
    log.warn('a VM could not be taken over', { sandbox: id, reason });
    try {
      await supervisor?.stop();
      await left.end(id);
    } finally {
      gate.abandoned(id);
      await rows.reconcileOne(row, `its VM could not be taken over: ${reason}`);
    }
    return;
  }
  const gapMs = left.lostAtMs === null ? null : Math.max(0, Math.round(clock.wall() - left.lostAtMs));
  const { policy, lastEvent } = stored;
  const { endsAtMs } = row;
  const made = { supervisor, policy, provenance: provenanceOf(row, stored), readyMs: null, endsAtMs, lastEvent };
  const sandbox = await ManagedSandbox.started(managed, made);
  sandbox.events.note({ type: 'adopted', gapMs });
  log.info('took over a sandbox of a killed process', { sandbox: id, gapMs });
  if (row.status === 'paused') await sandbox.pause('memory');
}

/** @throws SandboxError `gone`, `secrets_missing` */
function requireAdoptable({ spec: { id, console, secrets }, policy }: StoredRequest): void {
  if (policy.annotations[SESSION_ANNOTATION] !== undefined) {
    throw new SandboxError('gone', 'it ends with its client, whose connection ended');
  }
  requireValues(id, secrets);
  if (console === 'interactive') throw new SandboxError('gone', 'its console belonged to the process');
}

function provenanceOf({ snapshot, parent, createdAtMs }: SandboxRow, { origin, template }: StoredRequest): Provenance {
  return { origin, snapshot, template, parent, createdAtMs };
}
