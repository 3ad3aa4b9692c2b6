/** What bpf/latency.h lays out, read. Pure. */
import { BUCKETS, type Histogram } from './histogram.ts';

/** enum nv_path. */
export const PATHS = ['guest', 'peer', 'forward'] as const;
export type Path = (typeof PATHS)[number];

/** Offsets in bytes; a test compares them with the object's BTF. */
export const TIMES = {
  started: 0,
  answered: 8,
  repeated: 16,
  failed: 24,
  sum_ns: 32,
  buckets: 40,
} as const;
export const TIMES_BYTES = TIMES.buckets + 8 * BUCKETS;
export const TAP = {
  namespace: 0,
  frames_out: 8,
  frames_in: 16,
  unreadable: 24,
  paths: 32,
} as const;
export const TAP_BYTES = TAP.paths + PATHS.length * TIMES_BYTES;

/** PENDING_MAX of bpf/latency.bpf.c: packets that are awaited at once, of all TAPs of a process. */
export const PENDING_MAX = 65_536;
/** The kernel forgets the oldest a little before the map is full: each processor keeps some places free. */
const FORGETS_FROM = PENDING_MAX * 0.9;

export interface Times extends Histogram {
  /** Packets that an answer was awaited for, or that were expected to leave. */
  readonly started: number;
  readonly answered: number;
  /** Sent again before they were answered: not measured. */
  readonly repeated: number;
  /** Not noted, for want of memory. */
  readonly failed: number;
  /** Neither answered nor sent again: still awaited, lost, refused, answered by a later packet, or forgotten. */
  readonly unanswered: number;
}

export interface TapLatency {
  /** Frames out of the guest, and to it. */
  readonly framesOut: number;
  readonly framesIn: number;
  /** Of IPv4 and cut off within their headers. */
  readonly unreadable: number;
  /** So much of this TAP was without an answer that some of it may be forgotten: there may be more times. */
  readonly mayBeIncomplete: boolean;
  /**
   * `guest`: from a packet to the guest to its answer; `peer`: from a packet of the guest to its answer;
   * `forward`: from a packet of the guest until it left the host by an uplink.
   */
  readonly paths: Readonly<Record<Path, Times>>;
}

/** The value of a new entry. @param namespace inode of the network namespace */
export function newTapValue(namespace: bigint, cpus: number): Uint8Array<ArrayBuffer> {
  const value = new DataView(new ArrayBuffer(TAP_BYTES * cpus));
  for (let cpu = 0; cpu < cpus; cpu += 1)
    value.setBigUint64(cpu * TAP_BYTES + TAP.namespace, namespace, true);
  return new Uint8Array(value.buffer);
}

export function namespaceOf(value: DataView): bigint {
  return value.getBigUint64(TAP.namespace, true);
}

/** @param value of every processor, one after the other */
export function readTap(value: DataView): TapLatency {
  const cpus = value.byteLength / TAP_BYTES;
  const sum = (offset: number): number => {
    let total = 0n;
    for (let cpu = 0; cpu < cpus; cpu += 1)
      total += value.getBigUint64(cpu * TAP_BYTES + offset, true);
    return Number(total);
  };
  const times = (path: number): Times => {
    const at = TAP.paths + path * TIMES_BYTES;
    const [started, answered, repeated] = [
      sum(at + TIMES.started),
      sum(at + TIMES.answered),
      sum(at + TIMES.repeated),
    ];
    return {
      started,
      answered,
      repeated,
      failed: sum(at + TIMES.failed),
      unanswered: Math.max(started - answered - repeated, 0),
      sumNs: sum(at + TIMES.sum_ns),
      buckets: Array.from({ length: BUCKETS }, (_, index) => sum(at + TIMES.buckets + 8 * index)),
    };
  };
  const paths = { guest: times(0), peer: times(1), forward: times(2) };
  const awaited = Object.values(paths).reduce((n, path) => n + path.unanswered + path.repeated, 0);
  return {
    framesOut: sum(TAP.frames_out),
    framesIn: sum(TAP.frames_in),
    unreadable: sum(TAP.unreadable),
    mayBeIncomplete: awaited >= FORGETS_FROM,
    paths,
  };
}
