/** Reads the structs of bpf/latency.h. Pure. */
import { BUCKETS, EMPTY, type Histogram, since, sumHistograms } from './histogram.ts';

/** enum nv_path. */
export const PATHS = ['guest', 'peer', 'forward'] as const;
export type Path = (typeof PATHS)[number];

/** Offsets in bytes; a test compares them with the object's BTF. */
export const TIMES = {
  started: 0,
  answered: 8,
  repeated: 16,
  failed: 24,
  skipped: 32,
  window: 40,
  noted: 48,
  sum_ns: 56,
  buckets: 64,
} as const;
export const TIMES_BYTES = TIMES.buckets + 8 * BUCKETS;
export const TAP = { namespace: 0, frames_out: 8, frames_in: 16, unreadable: 24, paths: 32 } as const;
export const TAP_BYTES = TAP.paths + PATHS.length * TIMES_BYTES;

export const SETTINGS = { has_uplink: 0, noted_max: 4 } as const;
export const SETTINGS_BYTES = 8;

/** PENDING_MAX of bpf/latency.bpf.c: unanswered packets at a time, for all TAPs of a process. */
export const PENDING_MAX = 65_536;
/**
 * Packets that a TAP may record per 134 ms, processor and path; more are counted but not measured. A TAP at full speed
 * records 6,000 a second, so those of other TAPs stay recorded for ten seconds.
 */
export const NOTED_MAX = 256;
/** The kernel evicts the oldest a little before the map is full: each processor keeps some entries free. */
const FORGETS_FROM = PENDING_MAX * 0.9;

export interface Times extends Histogram {
  /** Packets that waited for an answer or were expected to leave. */
  readonly started: number;
  readonly answered: number;
  /** Retransmitted before the answer, so not measured. */
  readonly repeated: number;
  /** Not recorded, because the map was full. */
  readonly failed: number;
  /** Not recorded, because one TAP sent too many at once: the measurement is a sample. */
  readonly skipped: number;
  /** Neither answered nor retransmitted: pending, lost, refused, answered by a later packet, or evicted. */
  readonly unanswered: number;
}

export interface TapLatency {
  /** Frames from the guest, and to it. */
  readonly framesOut: number;
  readonly framesIn: number;
  /** IPv4 frames truncated within their headers. */
  readonly unreadable: number;
  /** So many packets were unanswered that some may have been evicted, so times may be missing. */
  readonly mayBeIncomplete: boolean;
  /**
   * `guest`: from a packet to the guest to its answer; `peer`: from a packet of the guest to its answer; `forward`:
   * from a packet of the guest until it left the host by an uplink.
   */
  readonly paths: Readonly<Record<Path, Times>>;
}

const NO_TIMES: Times = { started: 0, answered: 0, repeated: 0, failed: 0, skipped: 0, unanswered: 0, ...EMPTY };

export function sumTimes(all: readonly Times[]): Times {
  return all.reduce(
    (sum, times) => ({
      started: sum.started + times.started,
      answered: sum.answered + times.answered,
      repeated: sum.repeated + times.repeated,
      failed: sum.failed + times.failed,
      skipped: sum.skipped + times.skipped,
      unanswered: sum.unanswered + times.unanswered,
      ...sumHistograms([sum, times]),
    }),
    NO_TIMES,
  );
}

/** The difference; `later` includes the counts of `earlier`. */
function timesSince(later: Times, earlier: Times): Times {
  return {
    started: later.started - earlier.started,
    answered: later.answered - earlier.answered,
    repeated: later.repeated - earlier.repeated,
    failed: later.failed - earlier.failed,
    skipped: later.skipped - earlier.skipped,
    unanswered: Math.max(later.unanswered - earlier.unanswered, 0),
    ...since(later, earlier),
  };
}

export function latencySince(later: TapLatency, earlier: TapLatency): TapLatency {
  const path = (name: Path): Times => timesSince(later.paths[name], earlier.paths[name]);
  return {
    framesOut: later.framesOut - earlier.framesOut,
    framesIn: later.framesIn - earlier.framesIn,
    unreadable: later.unreadable - earlier.unreadable,
    mayBeIncomplete: later.mayBeIncomplete,
    paths: { guest: path('guest'), peer: path('peer'), forward: path('forward') },
  };
}

/** The value of a new entry. @param namespace inode of the network namespace */
export function newTapValue(namespace: bigint, cpus: number): Uint8Array<ArrayBuffer> {
  const value = new DataView(new ArrayBuffer(TAP_BYTES * cpus));
  for (let cpu = 0; cpu < cpus; cpu += 1) value.setBigUint64(cpu * TAP_BYTES + TAP.namespace, namespace, true);
  return new Uint8Array(value.buffer);
}

export function namespaceOf(value: DataView): bigint {
  return value.getBigUint64(TAP.namespace, true);
}

/** @param value the values of all processors, one after the other */
export function readTap(value: DataView): TapLatency {
  const cpus = value.byteLength / TAP_BYTES;
  const sum = (offset: number): number => {
    let total = 0;
    for (let cpu = 0; cpu < cpus; cpu += 1) {
      const at = cpu * TAP_BYTES + offset;
      total += value.getUint32(at + 4, true) * 2 ** 32 + value.getUint32(at, true);
    }
    return total;
  };
  const times = (path: number): Times => {
    const at = TAP.paths + path * TIMES_BYTES;
    const [started, answered, repeated] = [sum(at + TIMES.started), sum(at + TIMES.answered), sum(at + TIMES.repeated)];
    return {
      started,
      answered,
      repeated,
      failed: sum(at + TIMES.failed),
      skipped: sum(at + TIMES.skipped),
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
