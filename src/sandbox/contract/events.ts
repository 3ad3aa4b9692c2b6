/** Events of a sandbox, as its owner sees them. */
import type { PackageFetch } from '../../egress/packages/gateway.ts';
import type { EndInfo } from './ending.ts';
import type { MemoryEvent } from './memory-events.ts';

/** `disk_full`: the VM is paused. `disk_error`: the guest got an I/O error. */
export interface DiskEvent {
  readonly type: 'disk_full' | 'disk_error';
  /** Path of the disk's file on the host. */
  readonly path: string;
  /** Free bytes of that file system; `null` if unknown. */
  readonly freeBytes: number | null;
}

export function diskFullText({ path, freeBytes }: Pick<DiskEvent, 'path' | 'freeBytes'>): string {
  const free = freeBytes === null ? '' : ` (${freeBytes} bytes are free)`;
  return `the host's file system that holds ${path} is full${free}`;
}

/** The response to an earlier event (`onMemoryPressure`, a full disk, the daemon's stop), successful or not. */
export interface ActionEvent {
  readonly type: 'action';
  /** `grow` appears only for failures; a successful growth is `resized`. */
  readonly action: 'warn' | 'pause' | 'snapshot' | 'webhook' | 'grow' | 'resume';
  readonly ok: boolean;
  /** The snapshot's name; for a failure, the reason. */
  readonly detail: string;
}

/** A page or file of a package that the sandbox requested from the host's package gateway. */
export interface PackageEvent extends PackageFetch {
  readonly type: 'package';
}

/** Another process has taken the sandbox over, whose own was killed. All connections to its programs ended. */
export interface AdoptedEvent {
  readonly type: 'adopted';
  /** How long no process held it, milliseconds; null: unknown. */
  readonly gapMs: number | null;
}

export interface EndEvent {
  readonly type: 'end';
  readonly end: EndInfo;
}

export type SandboxEventBody = MemoryEvent | DiskEvent | PackageEvent | ActionEvent | AdoptedEvent | EndEvent;

export type TimedEvent = SandboxEventBody & {
  /** Starts at 1. No gaps, except for events that are no longer kept, and where another process has taken the sandbox. */
  readonly seq: number;
  /** Host time, milliseconds since 1970. */
  readonly atMs: number;
};

export interface EventSink {
  note(event: SandboxEventBody): void;
}
