/** A TAP in a private network namespace: a child makes it there and sends its descriptor. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { closeFd } from '../../src/sys/fd.ts';
import { acceptUnix, FdChannel, listenUnix } from '../../src/sys/socket.ts';

/** TUNSETIFF with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR (include/uapi/linux/if_tun.h). */
const MAKE = `
import fcntl, os, socket, struct, sys
fd = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(fd, 0x400454ca, struct.pack('16sH22x', b'tap0', 0x2 | 0x1000 | 0x4000))
with socket.socket(socket.AF_UNIX) as to:
    to.connect(sys.argv[1])
    socket.send_fds(to, [b'x'], [fd])
`;

/** @returns the descriptor, owned by the caller; the namespace lives as long as the TAP */
export async function tapElsewhere(): Promise<number> {
  const dir = await mkdtemp(join(tmpdir(), 'nv-tap-'));
  const listener = listenUnix(join(dir, 's'), 1);
  try {
    const child = spawn('unshare', ['--net', 'python3', '-c', MAKE, join(dir, 's')], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    const [status] = await once(child, 'close');
    if (status !== 0) throw new Error(`no TAP could be made: status ${status}`);
    const socket = acceptUnix(listener);
    if (socket < 0) throw new Error(`no connection from the child: errno ${-socket}`);
    const { fds } = new FdChannel(16, 1).receive(socket, 16);
    closeFd(socket);
    const [fd] = fds;
    if (fd === undefined) throw new Error('no descriptor came');
    return fd;
  } finally {
    closeFd(listener);
    await rm(dir, { recursive: true });
  }
}
