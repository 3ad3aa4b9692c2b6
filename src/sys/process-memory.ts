/**
 * Memory of another process, by a descriptor of /proc/PID/mem, and its descriptors, by a pidfd (pidfd_open(2)). Memory
 * belongs to the address space that the process had when it was opened (kernel, fs/proc/base.c `mem_open`); neither
 * reaches another process that gets the same pid.
 *
 * Unlike process_vm_readv(2), a call never waits for a page that a userfaultfd of the process has to bring: it fails
 * (mm/memory.c `__access_remote_vm` asks for a page without FOLL_UNLOCKABLE, fs/userfaultfd.c then gives SIGBUS).
 */
import { openSync } from 'node:fs';
import { errorCode } from '../base/errors.ts';
import { check, libc, orNegativeErrno, SyscallError } from './libc.ts';

const cPread = libc.func('intptr_t pread(int fd, uintptr_t at, size_t bytes, int64_t offset)');
const cPwrite = libc.func('intptr_t pwrite(int fd, uintptr_t at, size_t bytes, int64_t offset)');

const cSyscall = libc.func('long syscall(long number, long a, long b, long c, long d)');

const O_RDWR_CLOEXEC = 0o2000002;
const SYS_PIDFD_SEND_SIGNAL = 424;
const SYS_PIDFD_OPEN = 434;
const SYS_PIDFD_GETFD = 438;

/**
 * Needs the rights of attaching a debugger (ptrace(2), PTRACE_MODE_ATTACH), at this moment and not later.
 * @returns a descriptor for `readProcess` and `writeProcess`; the caller closes it
 * @throws SyscallError EACCES, EPERM: not allowed; ENOENT: no such process
 */
export function openProcessMemory(pid: number): number {
  try {
    return openSync(`/proc/${pid}/mem`, O_RDWR_CLOEXEC);
  } catch (error) {
    const { errno } = error as NodeJS.ErrnoException;
    if (errno === undefined || errorCode(error) === undefined) throw error;
    throw new SyscallError(`open memory of process ${pid}`, -errno);
  }
}

/**
 * Copies from address `from` of the process to address `to` of this one.
 * @returns bytes copied, fewer where its memory ends; 0 if the process has ended; or −errno
 */
export function readProcess(fd: number, from: number, to: number, bytes: number): number {
  return orNegativeErrno(cPread(fd, to, bytes, from));
}

/**
 * Copies from address `from` of this process to address `to` of the other. Its pages become its own, as when it writes
 * itself; also those that it may only read (FOLL_FORCE), so check the target of `to`.
 * @returns as `readProcess`
 */
export function writeProcess(fd: number, from: number, to: number, bytes: number): number {
  return orNegativeErrno(cPwrite(fd, from, bytes, to));
}

/** @returns a descriptor that the caller closes. @throws SyscallError ESRCH: no such process */
export function openPidFd(pid: number): number {
  return check(Number(cSyscall(SYS_PIDFD_OPEN, pid, 0, 0, 0)), `pidfd_open ${pid}`);
}

/**
 * A duplicate of a process's descriptor (pidfd_getfd(2)), closed on exec; the caller closes it. Needs the rights of
 * attaching a debugger. The process may have put anything there: compare `fileIdentity` before use.
 * @throws SyscallError
 */
export function takeFd(pidFd: number, fd: number): number {
  return check(Number(cSyscall(SYS_PIDFD_GETFD, pidFd, fd, 0, 0)), `pidfd_getfd ${fd}`);
}

/** @throws SyscallError ESRCH: it has ended */
export function signalPidFd(pidFd: number, signal: number): void {
  check(Number(cSyscall(SYS_PIDFD_SEND_SIGNAL, pidFd, signal, 0, 0)), 'pidfd_send_signal');
}
