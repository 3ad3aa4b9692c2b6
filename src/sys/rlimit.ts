/** Resource limits of another process (prlimit(2)); Node can't set any. */
import { check, libc } from './libc.ts';

const cPrlimit = libc.func('int prlimit(int pid, int resource, const void *next, uintptr_t old)');

/** RLIMIT_… of x86-64 and arm64 (asm-generic/resource.h). */
const RLIMIT = { fileSize: 1, core: 4, processes: 6, openFiles: 7, lockedMemory: 8, messageQueues: 12 } as const;

/** Sets the soft and the hard limit, so that it can't be raised again. @throws SyscallError */
export function setLimit(pid: number, resource: keyof typeof RLIMIT, value: number): void {
  const pair = new BigUint64Array([BigInt(value), BigInt(value)]);
  check(cPrlimit(pid, RLIMIT[resource], new Uint8Array(pair.buffer), 0), `prlimit ${resource}`);
}
