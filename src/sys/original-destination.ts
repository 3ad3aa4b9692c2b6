/** The destination of a connection before netfilter redirected it (linux/netfilter_ipv4.h). */
import { check, libc } from './libc.ts';

const cGetsockopt = libc.func('int getsockopt(int fd, int level, int name, void *value, _Inout_ uint32_t *bytes)');

const SOL_IP = 0;
const SO_ORIGINAL_DST = 80;
const AF_INET = 2;
/** struct sockaddr_in: u16 family, u16 port (big-endian), four bytes of address, eight of padding. */
const ADDRESS_BYTES = 16;

interface SocketAddress {
  readonly address: string;
  readonly port: number;
}

/**
 * For a connected IPv4 stream socket. Without a redirect, it is the socket's local address. The caller keeps the
 * descriptor.
 * @throws SyscallError `ENOENT`: connection tracking does not have it, or no longer; `ENOPROTOOPT`: no connection
 * tracking
 */
export function originalDestination(fd: number): SocketAddress {
  const bytes = new Uint8Array(ADDRESS_BYTES);
  const length = [ADDRESS_BYTES];
  check(cGetsockopt(fd, SOL_IP, SO_ORIGINAL_DST, bytes, length), 'getsockopt SO_ORIGINAL_DST');
  const view = new DataView(bytes.buffer);
  if (view.getUint16(0, true) !== AF_INET) throw new RangeError('not an IPv4 address');
  return { address: bytes.subarray(4, 8).join('.'), port: view.getUint16(2) };
}
