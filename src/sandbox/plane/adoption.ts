/**
 * Sandboxes of a killed process whose VMs live on: each is taken over, or ends as `host-lost` with the reason.
 *
 *     row running, or paused in memory ─► the VM, with a new channel ─► hello ─► running (─► paused again)
 *     row on disk or ended, or no row  ─► the VM ends: the row is the truth
 */
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { timeLimit } from '../../base/time-limit.ts';
import type { SandboxInfo } from '../contract/control.ts';
import { SandboxError } from '../contract/errors.ts';
import { type Provenance, SESSION_ANNOTATION } from '../contract/request.ts';
import type { SandboxSpec } from '../contract/spec.ts';
import type { SandboxRow } from '../store/sandbox-table.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import { ManagedSandbox } from './managed.ts';
import type { ManagedParts } from './managed-parts.ts';
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
  sharersOf(annotations: SandboxInfo['annotations']): string | null;
}

/** Takes over all that can be, at the same time. Never rejects. */
export async function adoptAll(parts: AdoptionParts): Promise<void> {
  const { left, log } = parts;
  await Promise.all(
    left.ids.map(async (id) => {
      try {
        await adopt(parts, id);
      } catch (error) {
        log.error('a VM of a killed process could not be ended', { sandbox: id, reason: describeError(error) });
      }
    }),
  );
}

async function adopt({ clock, log, left, managed, sharersOf }: AdoptionParts, id: string): Promise<void> {
  const { rows } = managed;
  const row = await rows.find(id);
  const stored = row === undefined ? null : rows.parse(row);
  if (row === undefined || stored === null || row.status === 'ended' || row.pausedSnapshotId !== null) {
    await left.end(id);
    if (row !== undefined) await rows.reconcileOne(row, 'another version had stored it');
    return;
  }
  let supervisor: Supervisor | undefined;
  try {
    requireAdoptable(stored);
    supervisor = left.supervise(stored.spec, id, sharersOf(stored.policy.annotations));
    using limit = timeLimit(clock, ADOPT_MS_MAX);
    await supervisor.start(limit.signal);
    left.forget(id);
  } catch (error) {
    const reason = describeError(error);
    await supervisor?.stop();
    await left.end(id);
    await rows.reconcileOne(row, `its VM could not be taken over: ${reason}`);
    log.warn('a VM could not be taken over', { sandbox: id, reason });
    return;
  }
  const gapMs = left.lostAtMs === null ? null : Math.max(0, Math.round(clock.wall() - left.lostAtMs));
  const { policy } = stored;
  const { endsAtMs } = row;
  const made = { supervisor, policy, provenance: provenanceOf(row, stored), readyMs: null, endsAtMs };
  const sandbox = ManagedSandbox.started(managed, made);
  sandbox.events.note({ type: 'adopted', gapMs });
  log.info('took over a sandbox of a killed process', { sandbox: id, gapMs });
  if (row.status === 'paused') await sandbox.pause('memory');
}

/** @throws SandboxError `gone` */
function requireAdoptable({ spec: { network, console }, policy }: StoredRequest): void {
  if (policy.annotations[SESSION_ANNOTATION] !== undefined) {
    throw new SandboxError('gone', 'it ends with its client, whose connection ended');
  }
  if (network !== null) throw new SandboxError('gone', 'it has a network, whose parts ended with the process');
  if (console === 'interactive') throw new SandboxError('gone', 'its console belonged to the process');
}

function provenanceOf({ snapshot, parent, createdAtMs }: SandboxRow, { origin, template }: StoredRequest): Provenance {
  return { origin, snapshot, template, parent, createdAtMs };
}
