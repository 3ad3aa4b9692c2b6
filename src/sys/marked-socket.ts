/** A TCP socket whose packets carry a mark that the packet filter can see (SO_MARK of socket(7)). */
import { closeFd } from './fd.ts';
import { check, lastErrno, libc } from './libc.ts';

const cSocket = libc.func('int socket(int domain, int type, int protocol)');
const cSetsockopt = libc.func('int setsockopt(int fd, int level, int name, const void *value, uint32_t bytes)');

const AF_INET = 2;
const SOCK_STREAM_NONBLOCK_CLOEXEC = 1 | 0o4000 | 0o2000000;
const SOL_SOCKET = 1;
const SO_MARK = 36;

/**
 * An unconnected IPv4 socket. The caller owns the descriptor.
 * @param mark u32, not 0
 * @throws SyscallError `EPERM`: only CAP_NET_ADMIN (from Linux 5.17 on also CAP_NET_RAW) may mark
 */
export function markedTcpSocket(mark: number): number {
  const fd = check(cSocket(AF_INET, SOCK_STREAM_NONBLOCK_CLOEXEC, 0), 'socket');
  const value = new Uint8Array(Uint32Array.of(mark).buffer);
  if (cSetsockopt(fd, SOL_SOCKET, SO_MARK, value, value.length) < 0) {
    const errno = lastErrno();
    closeFd(fd);
    check(-errno, 'setsockopt SO_MARK');
  }
  return fd;
}
