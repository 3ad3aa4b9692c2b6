/**
 * Loads bpf/syscalls.bpf.c and counts syscalls of VMMs by number (I/O). Descriptors of this process hold it, so it ends
 * with the process. Meanwhile each syscall of the whole host takes a little longer.
 */
import { BpfMap, possibleCpus } from '../../sys/bpf/map.ts';
import { attachToTracepoint, BpfObject } from '../../sys/bpf/object.ts';
import { closeFd } from '../../sys/fd.ts';
import { explain, requireFirstPidNamespace } from './availability.ts';
import { type CompileOptions, objectOf } from './compile.ts';

/** NV_CALLS of bpf/syscalls.h. */
const NUMBERS = 512;
/** Offsets in bytes; a test compares them with the object's BTF. */
export const CALLS = { calls: 0, others: 8 * NUMBERS } as const;
export const CALLS_BYTES = CALLS.others + 8;

/** Calls by number; `null` counts unknown numbers. */
export type CallCounts = ReadonlyMap<number | null, number>;

/** Compiles if there is no cached object, loads and attaches. @throws ObserveError */
export async function openSyscallCounts(options: CompileOptions): Promise<SyscallCounts> {
  const attempt = 'could not count the system calls of VMMs';
  requireFirstPidNamespace(attempt);
  const path = await objectOf('syscalls', options);
  try {
    return new SyscallCounts(new BpfObject(path));
  } catch (error) {
    throw explain(attempt, error);
  }
}

export class SyscallCounts implements Disposable {
  readonly #stack = new DisposableStack();
  readonly #calls: BpfMap;
  readonly #cpus = possibleCpus();

  /** @param object bpf/syscalls.bpf.c, owned by this instance even on an error. @throws SyscallError */
  constructor(object: BpfObject) {
    using stack = new DisposableStack();
    stack.defer(() => object.close());
    const valueBytes = CALLS_BYTES * this.#cpus;
    this.#calls = new BpfMap(object.mapFd('nv_calls'), { keyBytes: 4, valueBytes });
    const link = attachToTracepoint(object.programFd('nv_sys_enter'), 'sys_enter');
    stack.defer(() => closeFd(link));
    this.#stack.use(stack.move());
  }

  /** Counts a process from now on. A no-op if it is already counted. @throws ObserveError `full` */
  watch(pid: number): void {
    if (this.#calls.get(keyOf(pid)) !== undefined) return;
    try {
      this.#calls.set(keyOf(pid), new Uint8Array(CALLS_BYTES * this.#cpus));
    } catch (error) {
      throw explain(`could not count the system calls of process ${pid}`, error);
    }
  }

  /** Contains only numbers with calls. @returns undefined if the process is not watched */
  counts(pid: number): CallCounts | undefined {
    const value = this.#calls.get(keyOf(pid));
    return value === undefined ? undefined : readCalls(value);
  }

  /** Stops counting. Required even after the process's end: its pid may be reused. */
  forget(pid: number): void {
    this.#calls.delete(keyOf(pid));
  }

  [Symbol.dispose](): void {
    this.#stack.dispose();
  }
}

/** @param value the values of all processors, one after the other */
function readCalls(value: DataView): CallCounts {
  const counts = new Map<number | null, number>();
  for (let cpu = 0; cpu < value.byteLength; cpu += CALLS_BYTES) {
    for (let number = 0; number <= NUMBERS; number += 1) {
      const at = cpu + 8 * number;
      const count = value.getUint32(at + 4, true) * 2 ** 32 + value.getUint32(at, true);
      const key = number === NUMBERS ? null : number;
      if (count > 0) counts.set(key, (counts.get(key) ?? 0) + count);
    }
  }
  return counts;
}

function keyOf(pid: number): Uint8Array {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(pid);
  return bytes;
}
