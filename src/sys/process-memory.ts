/**
 * Memory of another process, by a descriptor of /proc/PID/mem. It belongs to the address space that the process had
 * when it was opened (kernel, fs/proc/base.c `mem_open`), so it never reaches another process that gets the same pid.
 *
 * Unlike process_vm_readv(2), a call never waits for a page that a userfaultfd of the process has to bring: it fails
 * (mm/memory.c `__access_remote_vm` asks for a page without FOLL_UNLOCKABLE, fs/userfaultfd.c then gives SIGBUS).
 */
import { openSync } from 'node:fs';
import { errorCode } from '../base/errors.ts';
import { libc, orNegativeErrno, SyscallError } from './libc.ts';

const cPread = libc.func('intptr_t pread(int fd, uintptr_t at, size_t bytes, int64_t offset)');
const cPwrite = libc.func('intptr_t pwrite(int fd, uintptr_t at, size_t bytes, int64_t offset)');

const O_RDWR_CLOEXEC = 0o2000002;

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
