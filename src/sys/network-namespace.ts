/** Network namespaces of processes (network_namespaces(7)). */
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { check, libc } from './libc.ts';

const cSetns = libc.func('int setns(int fd, int type)');

const CLONE_NEWNET = 0x40000000;
const OWN = '/proc/thread-self/ns/net';

/**
 * Opens a process's namespace, which lives as long as the descriptor. The caller owns it.
 * @throws a Node error: `ENOENT` without such a process; `EACCES` if it is another user's, and CAP_SYS_PTRACE is
 * missing
 */
export function openNetworkNamespace(pid: number | 'own'): number {
  return openSync(pid === 'own' ? OWN : `/proc/${pid}/ns/net`, constants.O_RDONLY);
}

export function isSameNamespace(fd: number, other: number): boolean {
  const [one, two] = [fstatSync(fd), fstatSync(other)];
  return one.dev === two.dev && one.ino === two.ino;
}

/**
 * Runs `work` with this thread in another network namespace, to which its new sockets belong. Other threads stay, so
 * `work` must neither wait nor start a thread.
 * @throws SyscallError `EPERM`: CAP_SYS_ADMIN is missing; and errors of `work`
 */
export function inNetworkNamespace<T>(fd: number, work: () => T): T {
  const own = openNetworkNamespace('own');
  try {
    check(cSetns(fd, CLONE_NEWNET), 'setns');
    try {
      return work();
    } finally {
      // This process must not continue in the wrong network.
      if (cSetns(own, CLONE_NEWNET) < 0) process.abort();
    }
  } finally {
    closeSync(own);
  }
}
