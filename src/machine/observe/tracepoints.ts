/**
 * Loads bpf/processes.bpf.c and reports events of the processes of sandboxes (I/O). Descriptors of this process hold
 * it, so it ends with the process.
 *
 * The host names the first process of a sandbox; its descendants follow. Events come through a ring that is read every
 * 50 ms; events without room are counted. The counts of a sandbox are exact even if events are lost.
 */
import type { Clock } from '../../base/clock.ts';
import type { SandboxId } from '../../base/ids.ts';
import { ignore } from '../../base/ignore.ts';
import { BpfMap, possibleCpus, RingBuffer } from '../../sys/bpf/map.ts';
import { attachToTracepoint, BpfObject, programRunTime } from '../../sys/bpf/object.ts';
import { closeFd } from '../../sys/fd.ts';
import { SyscallError } from '../../sys/libc.ts';
import { startTicksOf } from '../../sys/process-start.ts';
import { explain, requireBtf, requireFirstPidNamespace } from './availability.ts';
import { type CompileOptions, objectOf } from './compile.ts';
import {
  LOSS_BYTES,
  type Loss,
  type ProcessEvent,
  readEvent,
  readLoss,
  readSandbox,
  SANDBOX_BYTES,
  type SandboxCounts,
} from './events.ts';

const POLL_MS = 50;
const PROCESSES_MAX = 16_384;

const TRACEPOINTS = {
  nv_mark_victim: 'mark_victim',
  nv_host_reclaim_begin: 'mm_vmscan_direct_reclaim_begin',
  nv_host_reclaim_end: 'mm_vmscan_direct_reclaim_end',
  nv_cgroup_reclaim_begin: 'mm_vmscan_memcg_reclaim_begin',
  nv_cgroup_reclaim_end: 'mm_vmscan_memcg_reclaim_end',
  nv_fork: 'sched_process_fork',
  nv_exec: 'sched_process_exec',
  nv_exit: 'sched_process_exit',
} as const;

export interface TracepointOptions extends CompileOptions {
  readonly clock: Clock;
  /** Called from a timer, for sandboxes and for OOM victims of the host. */
  readonly onEvent: (event: ProcessEvent, sandbox: SandboxId | undefined) => void;
  /** Size of the ring, bytes: a power of two, in whole pages. Default: 262144, for 2300 events. */
  readonly ringBytes?: number;
  /** Maximum processes of all sandboxes. Default: 16384. */
  readonly processesMax?: number;
  /** Type information of another kernel, for tests. */
  readonly btfPath?: string;
}

/** Compiles if there is no cached object, loads and attaches. @throws ObserveError */
export async function openTracepoints(options: TracepointOptions): Promise<Tracepoints> {
  const attempt = 'follow what happens to the processes of sandboxes';
  const { ringBytes, processesMax, btfPath } = options;
  requireBtf(attempt, btfPath);
  requireFirstPidNamespace(attempt);
  const path = await objectOf('processes', options);
  try {
    const object = new BpfObject(path, {
      maxEntries: {
        ...(ringBytes === undefined ? {} : { nv_events: ringBytes }),
        ...(processesMax === undefined ? {} : { nv_processes: processesMax }),
      },
      ...(btfPath === undefined ? {} : { btfPath }),
    });
    return new Tracepoints(object, options);
  } catch (error) {
    throw explain(attempt, error);
  }
}

export class Tracepoints implements Disposable {
  /** Tracepoints that this kernel lacks; they report nothing. */
  readonly missing: readonly string[];
  readonly #object: BpfObject;
  readonly #options: TracepointOptions;
  readonly #processes: BpfMap;
  readonly #sandboxes: BpfMap;
  readonly #loss: BpfMap;
  readonly #ring: RingBuffer;
  readonly #stack: DisposableStack;
  readonly #numbers = new Map<SandboxId, bigint>();
  readonly #ids = new Map<bigint, SandboxId>();
  #lastNumber = 0n;
  #cancelPoll: () => void = () => undefined;

  /** @param object bpf/processes.bpf.c, owned by this instance even on an error. @throws SyscallError */
  constructor(object: BpfObject, options: TracepointOptions) {
    using stack = new DisposableStack();
    stack.defer(() => object.close());
    this.#object = object;
    this.#options = options;
    this.#processes = new BpfMap(object.mapFd('nv_processes'), { keyBytes: 4, valueBytes: 8 });
    const counts = { keyBytes: 8, valueBytes: SANDBOX_BYTES };
    this.#sandboxes = new BpfMap(object.mapFd('nv_sandboxes'), counts);
    const loss = { keyBytes: 4, valueBytes: LOSS_BYTES * possibleCpus() };
    this.#loss = new BpfMap(object.mapFd('nv_loss'), loss);
    this.#ring = new RingBuffer(object.mapFd('nv_events'));
    stack.defer(() => this.#ring.close());
    const missing: string[] = [];
    for (const [program, tracepoint] of Object.entries(TRACEPOINTS)) {
      const link = attach(object.programFd(program), tracepoint);
      if (link === undefined) missing.push(tracepoint);
      else stack.defer(() => closeFd(link));
    }
    this.missing = missing;
    stack.defer(() => this.#cancelPoll());
    this.#stack = stack.move();
    this.#poll();
  }

  /**
   * Assigns a process and its future descendants to the sandbox.
   * @returns false if the process has ended
   * @throws ObserveError `full`
   */
  watch(sandbox: SandboxId, pid: number): boolean {
    const attempt = `follow process ${pid} of sandbox ${sandbox}`;
    const started = startTicksOf(pid);
    if (started === undefined) return false;
    try {
      const number = this.#numberOf(sandbox);
      this.#processes.set(word(pid), long(number));
    } catch (error) {
      throw explain(attempt, error);
    }
    // The process ended before it was recorded, so no exit event would remove it.
    if (startTicksOf(pid) === started) return true;
    this.#processes.delete(word(pid));
    return false;
  }

  /** Stops reports and counts of a sandbox. A no-op if it is not watched. */
  forget(sandbox: SandboxId): void {
    const number = this.#numbers.get(sandbox);
    if (number === undefined) return;
    this.poll();
    this.#numbers.delete(sandbox);
    this.#ids.delete(number);
    this.#sandboxes.delete(long(number));
    for (const key of this.#processes.keys(PROCESSES_MAX))
      if (this.#processes.get(key)?.getBigUint64(0, true) === number) this.#processes.delete(key);
  }

  /** @returns undefined for a sandbox that is not watched */
  counts(sandbox: SandboxId): SandboxCounts | undefined {
    const number = this.#numbers.get(sandbox);
    const value = number === undefined ? undefined : this.#sandboxes.get(long(number));
    return value === undefined ? undefined : readSandbox(value);
  }

  loss(): Loss {
    const value = this.#loss.get(word(0));
    return value === undefined ? { events: 0, processes: 0 } : readLoss(value);
  }

  /** Reports pending events now. */
  poll(): void {
    for (const bytes of this.#ring.consume()) {
      const event = readEvent(bytes);
      if (event === undefined) ignore(bytes, 'an event of a BPF program that is none of ours');
      else this.#options.onEvent(event, this.#ids.get(event.sandbox));
    }
  }

  /** Run time of each program, while the kernel counts (`countRunTime`). */
  runTimes(): readonly { readonly program: string; readonly runs: number; readonly ns: number }[] {
    return Object.keys(TRACEPOINTS).map((program) => {
      const { runs, ns } = programRunTime(this.#object.programFd(program));
      return { program, runs: Number(runs), ns: Number(ns) };
    });
  }

  [Symbol.dispose](): void {
    this.#stack.dispose();
  }

  #poll(): void {
    this.#cancelPoll = this.#options.clock.after(POLL_MS, () => {
      this.poll();
      if (!this.#stack.disposed) this.#poll();
    });
  }

  #numberOf(sandbox: SandboxId): bigint {
    const known = this.#numbers.get(sandbox);
    if (known !== undefined) return known;
    this.#lastNumber += 1n;
    const number = this.#lastNumber;
    this.#sandboxes.set(long(number), new Uint8Array(SANDBOX_BYTES), 'new');
    this.#numbers.set(sandbox, number);
    this.#ids.set(number, sandbox);
    return number;
  }
}

/** @returns undefined if there is none of that name. @throws SyscallError */
function attach(programFd: number, tracepoint: string): number | undefined {
  try {
    return attachToTracepoint(programFd, tracepoint);
  } catch (error) {
    if (!(error instanceof SyscallError) || error.code !== 'ENOENT') throw error;
    ignore(error, 'a tracepoint that this kernel does not have');
    return undefined;
  }
}

function word(value: number): Uint8Array {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function long(value: bigint): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
}
