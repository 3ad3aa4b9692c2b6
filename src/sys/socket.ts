/** Unix sockets, non-blocking but for pairs: streams, descriptors that travel over them, single datagrams (unix(7)). */

import { closeFd } from './fd.ts';
import { check, lastErrno, libc, orNegativeErrno } from './libc.ts';
import { allocateNative } from './memory.ts';

const cSocket = libc.func('int socket(int domain, int type, int protocol)');
const cBind = libc.func('int bind(int fd, const void *address, uint32_t bytes)');
const cListen = libc.func('int listen(int fd, int backlog)');
const cAccept4 = libc.func('int accept4(int fd, uintptr_t address, uintptr_t bytes, int flags)');
const cConnect = libc.func('int connect(int fd, const void *address, uint32_t bytes)');
const cShutdown = libc.func('int shutdown(int fd, int how)');
const cRecv = libc.func('intptr_t recv(int fd, uintptr_t at, size_t bytes, int flags)');
const cRecvmsg = libc.func('intptr_t recvmsg(int fd, uintptr_t message, int flags)');
const cSendmsg = libc.func('intptr_t sendmsg(int fd, uintptr_t message, int flags)');
const cSendto = libc.func(
  'intptr_t sendto(int fd, const void *data, size_t bytes, int flags, const void *address, uint32_t addressBytes)',
);
const cSetsockopt = libc.func('int setsockopt(int fd, int level, int name, const void *value, uint32_t bytes)');

const cSocketpair = libc.func('int socketpair(int domain, int type, int protocol, _Out_ int *pair)');

const AF_UNIX = 1;
const SOCK_STREAM_CLOEXEC = 1 | 0o2000000;
const SOCK_STREAM_NONBLOCK_CLOEXEC = 1 | 0o4000 | 0o2000000;
const ACCEPT_NONBLOCK_CLOEXEC = 0o4000 | 0o2000000;
const SOCK_DGRAM_NONBLOCK_CLOEXEC = 2 | 0o4000 | 0o2000000;
const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_SNDBUFFORCE = 32;
const SCM_RIGHTS = 1;
const MSG_PEEK = 0x2;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
const MSG_CTRUNC = 0x8;
/** sun_path of struct sockaddr_un, with its final zero. */
export const UNIX_PATH_BYTES_MAX = 107;

/** Two connected stream sockets, blocking, closed on exec; the caller closes both. @throws SyscallError */
export function socketPair(): [number, number] {
  const pair: [number, number] = [-1, -1];
  check(cSocketpair(AF_UNIX, SOCK_STREAM_CLOEXEC, 0, pair), 'socketpair');
  return pair;
}

/** `how` of shutdown(2). */
export const SHUTDOWN = { read: 0, write: 1 } as const;

/** Listens at a path that does not exist yet. @throws SyscallError */
export function listenUnix(path: string, backlog: number): number {
  const fd = check(cSocket(AF_UNIX, SOCK_STREAM_NONBLOCK_CLOEXEC, 0), 'socket');
  const address = unixAddress(path);
  if (cBind(fd, address, address.length) < 0 || cListen(fd, backlog) < 0) {
    const errno = lastErrno();
    closeFd(fd);
    return check(-errno, `listen at ${path}`);
  }
  return fd;
}

/** @returns a connected fd or −errno (ENOENT, ECONNREFUSED: no listener; EAGAIN: backlog is full) */
export function connectUnix(path: string): number {
  const fd = orNegativeErrno(cSocket(AF_UNIX, SOCK_STREAM_NONBLOCK_CLOEXEC, 0));
  if (fd < 0) return fd;
  const address = unixAddress(path);
  if (cConnect(fd, address, address.length) < 0) {
    const errno = lastErrno();
    closeFd(fd);
    return -errno;
  }
  return fd;
}

/** @returns a non-blocking fd or −errno (EAGAIN: no connection waits) */
export function acceptUnix(fd: number): number {
  return orNegativeErrno(cAccept4(fd, 0, 0, ACCEPT_NONBLOCK_CLOEXEC));
}

/** @param path `@NAME`: in the abstract namespace. @returns bytes sent or −errno (EAGAIN: the queue is full) */
export function sendDatagram(path: string, data: Uint8Array): number {
  const fd = orNegativeErrno(cSocket(AF_UNIX, SOCK_DGRAM_NONBLOCK_CLOEXEC, 0));
  if (fd < 0) return fd;
  const address = unixAddress(path);
  const isAbstract = path.startsWith('@');
  if (isAbstract) address[2] = 0;
  // Each zero that follows would be a part of an abstract name.
  const bytes = isAbstract ? 2 + Buffer.byteLength(path) : address.length;
  const sent = orNegativeErrno(cSendto(fd, data, data.length, MSG_NOSIGNAL, address, bytes));
  closeFd(fd);
  return sent;
}

/** Ends one direction; an error means that the peer is gone already. */
export function shutdownSocket(fd: number, how: number): void {
  cShutdown(fd, how);
}

/** Sets how much the kernel queues for the peer; with CAP_NET_ADMIN above the system's limit. */
export function setSendBuffer(fd: number, bytes: number): void {
  const value = new Uint8Array(new Uint32Array([bytes]).buffer);
  if (cSetsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, value, 4) < 0) cSetsockopt(fd, SOL_SOCKET, SO_SNDBUF, value, 4);
}

/** Copies waiting bytes from the socket without consuming them. @returns bytes, 0 at the end, or −errno */
export function peekSocket(fd: number, address: number, bytes: number): number {
  return orNegativeErrno(cRecv(fd, address, bytes, MSG_PEEK));
}

function unixAddress(path: string): Uint8Array {
  const bytes = Buffer.from(path);
  if (bytes.length > UNIX_PATH_BYTES_MAX || bytes.includes(0))
    throw new RangeError(`not a socket path of at most ${UNIX_PATH_BYTES_MAX} bytes: ${path}`);
  const address = new Uint8Array(2 + UNIX_PATH_BYTES_MAX + 1);
  address[0] = AF_UNIX;
  address.set(bytes, 2);
  return address;
}

/** struct msghdr (56 bytes), one struct iovec (16), control data. */
const MESSAGE_BYTES = 56;
const CONTROL_OFFSET = 80;
const CMSG_HEADER_BYTES = 16;

/** Sends and receives bytes together with descriptors. Reusable; for one thread. */
export class FdChannel {
  readonly #message: ReturnType<typeof allocateNative>;
  readonly #view: DataView;
  readonly #data: ReturnType<typeof allocateNative>;
  readonly #controlBytes: number;

  /** @param bytesMax maximum bytes of one call. @param fdsMax maximum descriptors of one call */
  constructor(bytesMax: number, fdsMax: number) {
    this.#controlBytes = CMSG_HEADER_BYTES + Math.ceil((4 * fdsMax) / 8) * 8;
    this.#message = allocateNative(CONTROL_OFFSET + this.#controlBytes);
    this.#view = new DataView(this.#message.buffer);
    this.#data = allocateNative(bytesMax);
  }

  /**
   * Receives up to `bytes`. The caller owns the descriptors.
   * @returns `received`: bytes, 0 at the end, or −errno; `truncated`: the peer sent more descriptors than fit
   */
  receive(fd: number, bytes: number): { received: number; data: Uint8Array; fds: number[]; truncated: boolean } {
    this.#prepare(Math.min(bytes, this.#data.buffer.byteLength), this.#controlBytes);
    const received = orNegativeErrno(cRecvmsg(fd, this.#message.address, MSG_CMSG_CLOEXEC));
    if (received < 0) return { received, data: new Uint8Array(0), fds: [], truncated: false };
    const fds = this.#descriptors(Number(this.#view.getBigUint64(40, true)));
    const truncated = (this.#view.getInt32(48, true) & MSG_CTRUNC) !== 0;
    return { received, data: new Uint8Array(this.#data.buffer, 0, received), fds, truncated };
  }

  /** The caller still owns the descriptors. @returns bytes sent or −errno */
  send(fd: number, data: Uint8Array, fds: readonly number[] = []): number {
    new Uint8Array(this.#data.buffer).set(data);
    const control = fds.length === 0 ? 0 : CMSG_HEADER_BYTES + Math.ceil((4 * fds.length) / 8) * 8;
    this.#prepare(data.length, control);
    if (fds.length > 0) {
      this.#view.setBigUint64(CONTROL_OFFSET, BigInt(CMSG_HEADER_BYTES + 4 * fds.length), true);
      this.#view.setInt32(CONTROL_OFFSET + 8, SOL_SOCKET, true);
      this.#view.setInt32(CONTROL_OFFSET + 12, SCM_RIGHTS, true);
      for (const [index, each] of fds.entries())
        this.#view.setInt32(CONTROL_OFFSET + CMSG_HEADER_BYTES + 4 * index, each, true);
    }
    return orNegativeErrno(cSendmsg(fd, this.#message.address, MSG_NOSIGNAL));
  }

  #prepare(bytes: number, controlBytes: number): void {
    const { address } = this.#message;
    new Uint8Array(this.#message.buffer).fill(0);
    this.#view.setBigUint64(16, BigInt(address + MESSAGE_BYTES), true);
    this.#view.setBigUint64(24, 1n, true);
    this.#view.setBigUint64(32, controlBytes === 0 ? 0n : BigInt(address + CONTROL_OFFSET), true);
    this.#view.setBigUint64(40, BigInt(controlBytes), true);
    this.#view.setBigUint64(MESSAGE_BYTES, BigInt(this.#data.address), true);
    this.#view.setBigUint64(MESSAGE_BYTES + 8, BigInt(bytes), true);
  }

  /** Checks every control message: the kernel may write credentials before the descriptors. */
  #descriptors(controlLength: number): number[] {
    const fds: number[] = [];
    let at = CONTROL_OFFSET;
    const end = CONTROL_OFFSET + Math.min(controlLength, this.#controlBytes);
    while (at + CMSG_HEADER_BYTES <= end) {
      const length = Number(this.#view.getBigUint64(at, true));
      if (length < CMSG_HEADER_BYTES || at + length > end) break;
      const isRights =
        this.#view.getInt32(at + 8, true) === SOL_SOCKET && this.#view.getInt32(at + 12, true) === SCM_RIGHTS;
      for (let p = at + CMSG_HEADER_BYTES; isRights && p + 4 <= at + length; p += 4)
        fds.push(this.#view.getInt32(p, true));
      at += Math.ceil(length / 8) * 8;
    }
    return fds;
  }
}
