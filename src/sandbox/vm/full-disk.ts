/**
 * A full or failing file system of the host under a sandbox's disk.
 *
 *     full     the VM is paused in memory, without data loss; `resume` tries again. The timeout keeps counting.
 *     failed   the guest gets an I/O error (EIO), the owner an event
 */
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { DiskTrouble } from '../../machine/vmm/driver.ts';
import { FREE_SPACE, SandboxError } from '../contract/errors.ts';
import { type DiskEvent, diskFullText, type EventSink, type TimedEvent } from '../contract/events.ts';

export function diskEvent({ kind, path, freeBytes }: DiskTrouble): DiskEvent {
  return { type: kind === 'full' ? 'disk_full' : 'disk_error', path, freeBytes };
}

/** For a disk that was full before the sandbox was ready. */
export function startedOnFullDisk(trouble: DiskTrouble): SandboxError {
  return new SandboxError('disk_full', diskFullText(trouble), { remedy: FREE_SPACE });
}

export interface StalledSandbox {
  readonly id: string;
  readonly events: EventSink;
  /** Pauses the sandbox if its VM is still stopped for the disk. @returns whether it was */
  pauseStalled(): Promise<boolean>;
}

/** Resolves when the action is done. Never rejects. */
export async function onDiskEvent(sandbox: StalledSandbox, event: TimedEvent, log: Log): Promise<void> {
  if (event.type !== 'disk_full' && event.type !== 'disk_error') return;
  const { type, path, freeBytes } = event;
  const fields = { sandbox: sandbox.id, path, freeBytes };
  if (type === 'disk_error') {
    log.error("a sandbox's disk can't be read or written; the guest got an I/O error", fields);
    return;
  }
  log.error("the host's file system is full: a sandbox is paused", fields);
  const action = { type: 'action', action: 'pause' } as const;
  try {
    if (await sandbox.pauseStalled()) sandbox.events.note({ ...action, ok: true, detail: '' });
  } catch (error) {
    sandbox.events.note({ ...action, ok: false, detail: describeError(error) });
  }
}
