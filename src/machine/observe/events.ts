/** Reads the structs of bpf/events.h. Pure. */
import { BUCKETS, type Histogram } from './histogram.ts';

/** Offsets in bytes; a test compares them with the object's BTF. */
export const EVENT = {
  at_ns: 0,
  sandbox: 8,
  kind: 16,
  tgid: 20,
  tid: 24,
  uid: 28,
  status: 32,
  scope: 36,
  oom_score_adj: 40,
  zero: 44,
  duration_ns: 48,
  freed_pages: 56,
  anon_pages: 64,
  file_pages: 72,
  shmem_pages: 80,
  comm: 88,
} as const;
const COMM_BYTES = 16;
export const EVENT_BYTES = EVENT.comm + COMM_BYTES;
export const SANDBOX = {
  execs: 0,
  exits: 8,
  oom_victims: 16,
  stalls: 24,
  stall_ns: 32,
  freed_pages: 40,
  untold: 48,
  told_at_ns: 56,
  stall_buckets: 64,
} as const;
export const SANDBOX_BYTES = SANDBOX.stall_buckets + 8 * BUCKETS;
export const LOSS = { events: 0, processes: 8 } as const;
export const LOSS_BYTES = 16;
const PAGE_BYTES = 4096;

interface Common {
  /** CLOCK_MONOTONIC. */
  readonly atNs: bigint;
  /** The host's number for the sandbox; 0n for a process of no sandbox. */
  readonly sandbox: bigint;
  readonly pid: number;
  readonly tid: number;
  readonly comm: string;
}

/** `host`: the host is under memory pressure; `cgroup`: the process's cgroup is at its limit. */
type Scope = 'host' | 'cgroup';

export type ProcessEvent = Common &
  (
    | {
        /** An OOM victim. Before Linux 6.10 only `pid` is known. */
        readonly kind: 'oom-victim';
        readonly uid: number;
        /** −1000 to 1000. */
        readonly oomScoreAdj: number;
        /** Its own memory, mapped files, and shared memory (a guest's RAM). */
        readonly anonBytes: number;
        readonly fileBytes: number;
        readonly shmemBytes: number;
      }
    /** The thread waits while the kernel frees memory. */
    | { readonly kind: 'reclaim-begin'; readonly scope: Scope }
    | { readonly kind: 'reclaim-end'; readonly scope: Scope; readonly durationNs: number; readonly freedBytes: number }
    | { readonly kind: 'exec' }
    /** Ended by exit or by a signal; the other is `null`. */
    | { readonly kind: 'exit'; readonly exitCode: number | null; readonly signal: number | null }
  );

const KIND = { oomVictim: 1, reclaimBegin: 2, reclaimEnd: 3, exec: 4, exit: 5 } as const;
const SCOPES: readonly Scope[] = ['host', 'cgroup'];

/** @returns undefined for an unknown event */
export function readEvent(bytes: Uint8Array): ProcessEvent | undefined {
  if (bytes.length < EVENT_BYTES) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const word = (at: number): number => view.getUint32(at, true);
  const long = (at: number): number => Number(view.getBigUint64(at, true));
  const common: Common = {
    atNs: view.getBigUint64(EVENT.at_ns, true),
    sandbox: view.getBigUint64(EVENT.sandbox, true),
    pid: word(EVENT.tgid),
    tid: word(EVENT.tid),
    comm: printable(bytes.subarray(EVENT.comm, EVENT_BYTES)),
  };
  const scope = SCOPES[word(EVENT.scope)] ?? 'host';
  switch (word(EVENT.kind)) {
    case KIND.oomVictim:
      return {
        ...common,
        kind: 'oom-victim',
        uid: word(EVENT.uid),
        oomScoreAdj: view.getInt32(EVENT.oom_score_adj, true),
        anonBytes: long(EVENT.anon_pages) * PAGE_BYTES,
        fileBytes: long(EVENT.file_pages) * PAGE_BYTES,
        shmemBytes: long(EVENT.shmem_pages) * PAGE_BYTES,
      };
    case KIND.reclaimBegin:
      return { ...common, kind: 'reclaim-begin', scope };
    case KIND.reclaimEnd:
      return {
        ...common,
        kind: 'reclaim-end',
        scope,
        durationNs: long(EVENT.duration_ns),
        freedBytes: long(EVENT.freed_pages) * PAGE_BYTES,
      };
    case KIND.exec:
      return { ...common, kind: 'exec' };
    case KIND.exit:
      return { ...common, kind: 'exit', ...readStatus(word(EVENT.status)) };
    default:
      return undefined;
  }
}

/** As in wait(2): the low 7 bits are a signal, the next byte is the exit status. */
function readStatus(status: number): { exitCode: number | null; signal: number | null } {
  const signal = status & 0x7f;
  if (signal !== 0) return { exitCode: null, signal };
  return { exitCode: (status >>> 8) & 0xff, signal: null };
}

/** Counts of a sandbox's process events, reported or not. */
export interface SandboxCounts {
  readonly execs: number;
  readonly exits: number;
  readonly oomVictims: number;
  /** Reclaims that its threads waited for, and how long. */
  readonly stalls: Histogram;
  readonly freedBytes: number;
  /** Reclaims without an event, because there were too many. */
  readonly untoldStalls: number;
}

export function readSandbox(view: DataView): SandboxCounts {
  const long = (at: number): number => Number(view.getBigUint64(at, true));
  return {
    execs: long(SANDBOX.execs),
    exits: long(SANDBOX.exits),
    oomVictims: long(SANDBOX.oom_victims),
    stalls: {
      sumNs: long(SANDBOX.stall_ns),
      buckets: Array.from({ length: BUCKETS }, (_, n) => long(SANDBOX.stall_buckets + 8 * n)),
    },
    freedBytes: long(SANDBOX.freed_pages) * PAGE_BYTES,
    untoldStalls: long(SANDBOX.untold),
  };
}

/** Lost events. */
export interface Loss {
  /** Events that did not fit into the ring. */
  readonly events: number;
  /** Processes that could not be assigned to their sandbox. */
  readonly processes: number;
}

/** @param view the values of all processors, one after the other */
export function readLoss(view: DataView): Loss {
  const loss = { events: 0, processes: 0 };
  for (let at = 0; at < view.byteLength; at += LOSS_BYTES) {
    loss.events += Number(view.getBigUint64(at + LOSS.events, true));
    loss.processes += Number(view.getBigUint64(at + LOSS.processes, true));
  }
  return loss;
}

/** Replaces unprintable characters: a process chooses its own name. */
function printable(bytes: Uint8Array): string {
  const [text = ''] = Buffer.from(bytes).toString('latin1').split('\0');
  return text.replaceAll(/[^ -~]/g, '?');
}
