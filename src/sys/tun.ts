/**
 * TAP interfaces through `/dev/net/tun` (Documentation/networking/tuntap.rst, linux/if_tun.h).
 *
 * An interface lives as long as a descriptor of it is open, in any process; the kernel removes it after that, also if
 * the processes were killed. It is created in the network namespace of the calling thread.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { check, libc } from './libc.ts';

const ioctlNumber = libc.func('int ioctl(int fd, unsigned long request, uintptr_t value)');
const ioctlBuffer = libc.func('int ioctl(int fd, unsigned long request, void *buffer)');

export const TUN_DEVICE = '/dev/net/tun';
/** _IOW('T', n, int), though TUNSETIFF takes a struct ifreq and the others a number. */
const TUNSETIFF = 0x400454ca;
const TUNSETPERSIST = 0x400454cb;
const TUNSETOWNER = 0x400454cc;
const TUNSETGROUP = 0x400454ce;

const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
/** Refuse (EBUSY) to join an existing interface. */
const IFF_TUN_EXCL = 0x8000;

const SIOCSIFHWADDR = 0x8924;
const ARPHRD_ETHER = 1;

/** struct ifreq: char name[16], then a union of 24 bytes that begins with i16 flags. */
const IFREQ_BYTES = 40;
/** IFNAMSIZ without its final zero. */
const NAME_BYTES_MAX = 15;

interface TapOptions {
  /** 1 to 15 ASCII characters. The caller has checked it: the kernel reads `%d` as a template. */
  readonly name: string;
  /** User and group that may open it without CAP_NET_ADMIN; numeric ids. */
  readonly owner?: { readonly uid: number; readonly gid: number } | undefined;
  /** The host's MAC address on it, six bytes. Default: random. */
  readonly mac?: Uint8Array | undefined;
}

/**
 * Creates a TAP whose frames carry a virtio-net header and no protocol information.
 * @returns a non-blocking descriptor, which the caller owns, closed on exec: a child gets it by `stdio` of `spawn`. On
 * an error, nothing is left
 * @throws a Node error: `ENOENT`, `EACCES` if the device can't be opened
 * @throws SyscallError `EBUSY`: the name is taken; `EPERM`: CAP_NET_ADMIN is missing
 */
export function createTap({ name, owner, mac }: TapOptions): number {
  const fd = openSync(TUN_DEVICE, constants.O_RDWR | constants.O_NONBLOCK);
  try {
    const request = new Uint8Array(IFREQ_BYTES);
    request.set(Buffer.from(name, 'latin1').subarray(0, NAME_BYTES_MAX));
    const flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL;
    new DataView(request.buffer).setUint16(16, flags, true);
    check(ioctlBuffer(fd, TUNSETIFF, request), `TUNSETIFF ${name}`);
    // At once: other programs set the MAC of links without one (net/link/kept-mac.ts).
    if (mac !== undefined) setMac(fd, mac);
    if (owner !== undefined) setTapOwner(fd, owner);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function setMac(fd: number, mac: Uint8Array): void {
  const request = new Uint8Array(IFREQ_BYTES);
  // struct sockaddr: u16 family, then the address.
  new DataView(request.buffer).setUint16(16, ARPHRD_ETHER, true);
  request.set(mac, 18);
  check(ioctlBuffer(fd, SIOCSIFHWADDR, request), 'SIOCSIFHWADDR');
}

/** Sets which user and group may open the TAP without CAP_NET_ADMIN. @throws SyscallError */
export function setTapOwner(fd: number, { uid, gid }: NonNullable<TapOptions['owner']>): void {
  check(ioctlNumber(fd, TUNSETOWNER, uid), `TUNSETOWNER fd ${fd}`);
  check(ioctlNumber(fd, TUNSETGROUP, gid), `TUNSETGROUP fd ${fd}`);
}

/** Makes the interface of `fd` outlive its last descriptor. @throws SyscallError */
export function keepTap(fd: number): void {
  check(ioctlNumber(fd, TUNSETPERSIST, 1), `TUNSETPERSIST fd ${fd}`);
}
