/**
 * Loads bpf/syscalls.bpf.c, and counts system calls of VMMs by number (io). Held by descriptors of this process:
 * it ends with it. Each system call of the whole host takes a little longer meanwhile.
 */
import { BpfMap, possibleCpus } from '../sys/bpf-map.ts';
import { attachToTracepoint, BpfObject } from '../sys/bpf-object.ts';
import { closeFd } from '../sys/fd.ts';
import { explain, requireFirstPidNamespace } from './availability.ts';
import { type CompileOptions, objectOf } from './compile.ts';

/** NV_CALLS of bpf/syscalls.h. */
const NUMBERS = 512;
/** Offsets in bytes; a test compares them with the object's BTF. */
export const CALLS = { calls: 0, others: 8 * NUMBERS } as const;
export const CALLS_BYTES = CALLS.others + 8;

/** How often each was called, by its number; `null`: those whose number no call has. */
export type CallCounts = ReadonlyMap<number | null, number>;

/** Compiles, where there is no object yet, loads and attaches. @throws ObserveError */
export async function openSyscallCounts(options: CompileOptions): Promise<SyscallCounts> {
  const attempt = 'count the system calls of VMMs';
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

  /** @param object of bpf/syscalls.bpf.c, which becomes ours, also on an error. @throws SyscallError */
  constructor(object: BpfObject) {
    using stack = new DisposableStack();
    stack.defer(() => object.close());
    const valueBytes = CALLS_BYTES * this.#cpus;
    this.#calls = new BpfMap(object.mapFd('nv_calls'), { keyBytes: 4, valueBytes });
    const link = attachToTracepoint(object.programFd('nv_sys_enter'), 'sys_enter');
    stack.defer(() => closeFd(link));
    this.#stack.use(stack.move());
  }

  /** From now on. Fine when it is counted already. @throws ObserveError `full` */
  watch(pid: number): void {
    if (this.#calls.get(keyOf(pid)) !== undefined) return;
    try {
      this.#calls.set(keyOf(pid), new Uint8Array(CALLS_BYTES * this.#cpus));
    } catch (error) {
      throw explain(`count the system calls of process ${pid}`, error);
    }
  }

  /** Those that were not called are not in it. @returns undefined: it is not watched */
  counts(pid: number): CallCounts | undefined {
    const value = this.#calls.get(keyOf(pid));
    return value === undefined ? undefined : readCalls(value);
  }

  /** Has to be told, also after its end: another may get its number. */
  forget(pid: number): void {
    this.#calls.delete(keyOf(pid));
  }

  /** Takes the program away. */
  [Symbol.dispose](): void {
    this.#stack.dispose();
  }
}

/** @param value of every processor, one after the other */
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
