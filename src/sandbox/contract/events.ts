/** What happens to a sandbox, as its owner reads it. */
import type { PackageFetch } from '../../egress/packages/gateway.ts';
import type { EndInfo } from './ending.ts';
import type { MemoryEvent } from './memory-events.ts';

/** `disk_full`: the VM is paused. `disk_error`: the guest got an I/O error. */
export interface DiskEvent {
  readonly type: 'disk_full' | 'disk_error';
  /** Of the disk's file, on the host. */
  readonly path: string;
  /** Of the file system there; null: not known. */
  readonly freeBytes: number | null;
}

export function diskFullText({ path, freeBytes }: Pick<DiskEvent, 'path' | 'freeBytes'>): string {
  const free = freeBytes === null ? '' : ` (${freeBytes} bytes are free)`;
  return `the host's file system that holds ${path} is full${free}`;
}

/** The response to an earlier event (`onMemoryPressure`, a full disk), successful or not. */
export interface ActionEvent {
  readonly type: 'action';
  /** `grow` only where it failed; a success is `resized`. */
  readonly action: 'warn' | 'pause' | 'snapshot' | 'webhook' | 'grow';
  readonly ok: boolean;
  /** The name of a snapshot; for a failure, what went wrong. */
  readonly detail: string;
}

/** A page or file of a package that the sandbox asked the host's gateway for. */
export interface PackageEvent extends PackageFetch {
  readonly type: 'package';
}

/** The last event of a sandbox. */
export interface EndEvent {
  readonly type: 'end';
  readonly end: EndInfo;
}

export type SandboxEventBody = MemoryEvent | DiskEvent | PackageEvent | ActionEvent | EndEvent;

export type TimedEvent = SandboxEventBody & {
  /** From 1, without gaps except for events that are no longer kept. */
  readonly seq: number;
  /** Milliseconds since 1970, of the host. */
  readonly atMs: number;
};

export interface EventSink {
  note(event: SandboxEventBody): void;
}
