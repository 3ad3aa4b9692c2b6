/** Core dumps of crashed processes (core(5)), and a signal at the parent's end: prctl(2). */
import koffi from 'koffi';
import { check, libc } from './libc.ts';

const RLIMIT_CORE = 4;
const PR_SET_PDEATHSIG = 1;
const PR_SET_DUMPABLE = 4;
koffi.struct('core_rlimit', { soft: 'uint64_t', hard: 'uint64_t' });
const setLimit = libc.func('int setrlimit(int resource, const core_rlimit *limit)');
const control = libc.func('int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)');

/** Sends this process a signal once its parent has ended. Call it on the main thread. @throws SyscallError */
export function signalAtParentsEnd(signal: number): void {
  check(control(PR_SET_PDEATHSIG, signal, 0, 0, 0), 'prctl PR_SET_PDEATHSIG');
}

/**
 * Prevents core dumps of this process, to a file or a program, and lets only root read its memory. Its children inherit
 * the limit, but are dumpable again.
 * @throws SyscallError
 */
export function writeNoCore(): void {
  check(setLimit(RLIMIT_CORE, { soft: 0n, hard: 0n }), 'setrlimit RLIMIT_CORE 0');
  check(control(PR_SET_DUMPABLE, 0, 0, 0, 0), 'prctl PR_SET_DUMPABLE 0');
}
