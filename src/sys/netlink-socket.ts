/**
 * A socket to the kernel's routing subsystem (netlink(7), rtnetlink(7)) or netfilter. Never blocks: the kernel
 * processes a request inside sendto(2) and has queued its whole answer, or the first part of a dump, when that returns
 * (`netlink_unicast_kernel` in net/netlink/af_netlink.c); later parts are made by each recv(2).
 *
 * The socket belongs to the network namespace of the thread that created it.
 */
import { closeFd } from './fd.ts';
import { check, ERRNO, lastErrno, libc, SyscallError } from './libc.ts';
import { allocateNative } from './memory.ts';

const cSocket = libc.func('int socket(int domain, int type, int protocol)');
const cBind = libc.func('int bind(int fd, const void *address, uint32_t bytes)');
const cGetsockname = libc.func('int getsockname(int fd, uintptr_t address, uintptr_t bytes)');
const cSetsockopt = libc.func('int setsockopt(int fd, int level, int name, const void *value, uint32_t bytes)');
const cSendto = libc.func(
  'intptr_t sendto(int fd, const void *at, size_t bytes, int flags, const void *to, uint32_t toBytes)',
);
const cRecvfrom = libc.func(
  'intptr_t recvfrom(int fd, uintptr_t at, size_t bytes, int flags, uintptr_t from, uintptr_t fromBytes)',
);

const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 3 | 0o2000000;
/** Families of netlink(7). */
export const NETLINK = { route: 0, audit: 9, netfilter: 12 } as const;
const SOL_NETLINK = 270;
const NETLINK_CAP_ACK = 10;
const NETLINK_EXT_ACK = 11;
const NETLINK_GET_STRICT_CHK = 12;
const MSG_TRUNC = 0x20;
const MSG_DONTWAIT = 0x40;
/** struct sockaddr_nl: u16 family, u16 padding, u32 port id, u32 groups. */
const ADDRESS_BYTES = 12;
/** The kernel fills at most 32 KiB of a dump at once (NLMSG_GOODSIZE and `netlink_dump`). */
const DATAGRAM_BYTES_MAX = 65_536;

export class NetlinkSocket {
  /** Our address, which is in each answer of the kernel. */
  readonly portId: number;
  readonly #fd: number;
  readonly #kernel = new Uint8Array(ADDRESS_BYTES);
  readonly #datagram = allocateNative(DATAGRAM_BYTES_MAX);
  /** A struct sockaddr_nl and the socklen_t of its length. */
  readonly #from = allocateNative(ADDRESS_BYTES + 4);
  readonly #fromView = new DataView(this.#from.buffer);
  #open = true;

  /** @param groups groups of notifications, one bit each (`nl_groups`). @throws SyscallError */
  constructor(family: (typeof NETLINK)[keyof typeof NETLINK] = NETLINK.route, groups = 0) {
    this.#fd = check(cSocket(AF_NETLINK, SOCK_RAW_CLOEXEC, family), 'socket AF_NETLINK');
    try {
      new DataView(this.#kernel.buffer).setUint16(0, AF_NETLINK, true);
      // Optional: without them, error texts are missing and the kernel does not filter dumps.
      for (const option of [NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK])
        cSetsockopt(this.#fd, SOL_NETLINK, option, new Uint8Array([1, 0, 0, 0]), 4);
      const own = this.#kernel.slice();
      new DataView(own.buffer).setUint32(8, groups, true);
      check(cBind(this.#fd, own, ADDRESS_BYTES), 'bind AF_NETLINK');
      this.#fromView.setUint32(ADDRESS_BYTES, ADDRESS_BYTES, true);
      const { address } = this.#from;
      check(cGetsockname(this.#fd, address, address + ADDRESS_BYTES), 'getsockname');
      this.portId = this.#fromView.getUint32(4, true);
    } catch (error) {
      closeFd(this.#fd);
      throw error;
    }
  }

  /** Sends one request to the kernel, whole. @throws SyscallError */
  send(request: Uint8Array): void {
    const { length } = request;
    check(cSendto(this.#use(), request, length, 0, this.#kernel, ADDRESS_BYTES), 'sendto netlink');
  }

  /** The same on a thread of libuv's pool, for slow requests. @throws SyscallError */
  sendOffThread(request: Uint8Array): Promise<void> {
    const { length } = request;
    // A copy: the caller might change it meanwhile.
    const bytes = Buffer.from(request);
    return new Promise((resolve, reject) => {
      const arguments_ = [this.#use(), bytes, length, 0, this.#kernel, ADDRESS_BYTES] as const;
      cSendto.async(...arguments_, (error: unknown, sent: number | bigint) => {
        const isSent = Number(sent) === bytes.length;
        if (error !== null && error !== undefined) reject(error);
        else if (isSent) resolve();
        else reject(new SyscallError('sendto netlink', lastErrno()));
      });
    });
  }

  /**
   * Receives one datagram from the kernel. The caller owns the bytes. Drops datagrams of other processes.
   * @returns undefined if nothing is queued
   * @throws SyscallError `ENOBUFS`: the kernel lost an answer; `EMSGSIZE`: it is above 64 KiB
   */
  receive(): Uint8Array | undefined {
    for (;;) {
      this.#fromView.setUint32(ADDRESS_BYTES, ADDRESS_BYTES, true);
      const { address } = this.#from;
      const bytes = Number(
        cRecvfrom(
          this.#use(),
          this.#datagram.address,
          DATAGRAM_BYTES_MAX,
          MSG_DONTWAIT | MSG_TRUNC,
          address,
          address + ADDRESS_BYTES,
        ),
      );
      if (bytes < 0) {
        const errno = lastErrno();
        if (errno === ERRNO.EAGAIN) return undefined;
        if (errno === ERRNO.EINTR) continue;
        throw new SyscallError('recv netlink', errno);
      }
      if (this.#fromView.getUint32(4, true) !== 0) continue;
      if (bytes > DATAGRAM_BYTES_MAX) throw new SyscallError('recv netlink', EMSGSIZE);
      return new Uint8Array(this.#datagram.buffer.slice(0, bytes));
    }
  }

  /** Idempotent. */
  close(): void {
    if (this.#open) closeFd(this.#fd);
    this.#open = false;
  }

  /** The number of a closed descriptor may belong to another file by now. */
  #use(): number {
    if (!this.#open) throw new SyscallError('netlink socket after close', EBADF);
    return this.#fd;
  }
}

// errno.h
const EBADF = 9;
const EMSGSIZE = 90;
