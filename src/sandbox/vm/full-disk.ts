/**
 * The host's file system with the disk of a sandbox is full, or fails.
 *
 *     full     its VM stands still, and nothing of it is lost: paused in memory; `resume` tries again.
 *              Its time goes on, so that it ends when that is over.
 *     failed   the guest was told (EIO); the event says so to who is outside
 */
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { DiskTrouble } from '../../vmm/driver.ts';
import { SandboxError } from '../errors.ts';
import { type DiskEvent, diskFullText, type EventSink, type TimedEvent } from '../events.ts';

export function diskEvent({ kind, path, freeBytes }: DiskTrouble): DiskEvent {
  return { type: kind === 'full' ? 'disk_full' : 'disk_error', path, freeBytes };
}

export const FREE_SPACE = 'free space there, or set NEUROVISOR_HOME to a larger file system';

/** One that is full before the sandbox is ready. */
export function startedOnFullDisk(trouble: DiskTrouble): SandboxError {
  return new SandboxError('start_failed', diskFullText(trouble), { remedy: FREE_SPACE });
}

/** A sandbox, as far as something is done to it. */
export interface StalledSandbox {
  readonly id: string;
  readonly events: EventSink;
  /** Where its VM still stands still for its disk. @returns whether it did */
  pauseStalled(): Promise<boolean>;
}

/** Resolves when what is to be done is done. Never rejects. */
export async function onDiskEvent(
  sandbox: StalledSandbox,
  event: TimedEvent,
  log: Log,
): Promise<void> {
  if (event.type !== 'disk_full' && event.type !== 'disk_error') return;
  const { type, path, freeBytes } = event;
  const fields = { sandbox: sandbox.id, path, freeBytes };
  if (type === 'disk_error') {
    log.error("a sandbox's disk can't be read or written; its guest was told", fields);
    return;
  }
  log.error("the host's file system is full: a sandbox stands still", fields);
  const action = { type: 'action', action: 'pause' } as const;
  try {
    if (await sandbox.pauseStalled()) sandbox.events.note({ ...action, ok: true, detail: '' });
  } catch (error) {
    sandbox.events.note({ ...action, ok: false, detail: describeError(error) });
  }
}
