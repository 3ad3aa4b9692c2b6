/** Devices that copy guest memory from and to the VMM's process, which is this test. */
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { ftruncateSync, mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { GUEST_BASE, type GuestRingsOptions } from '../../prove/vmm/guest-rings.ts';
import { VhostFrontEnd } from '../../prove/vmm/vhost-front-end.ts';
import { MIB } from '../../src/base/units.ts';
import { createVsockHost, type VsockDevice, type VsockHost } from '../../src/machine/vsock/host.ts';
import { OP } from '../../src/machine/vsock/packet.ts';
import { REQUEST } from '../../src/machine/vsock/vhost-user.ts';
import { createMemFd } from '../../src/sys/fd.ts';
import { openProcessMemory } from '../../src/sys/process-memory.ts';
import { collect, openFds } from '../support/process-view.ts';

let dir = '';
let host: VsockHost;
const frontEnds: VhostFrontEnd[] = [];
const servers: Server[] = [];
let lastCid = 100;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-vsock-'));
  host = createVsockHost();
});

afterEach(async () => {
  for (const frontEnd of frontEnds.splice(0)) frontEnd.close();
  await host.close();
  for (const server of servers.splice(0)) server.close();
  rmSync(dir, { recursive: true });
});

interface Made {
  readonly device: VsockDevice;
  readonly channelPath: string;
  readonly vhostSocketPath: string;
  readonly guestCid: number;
}

/** @param memoryFd −1: the device gets no process */
async function attach(memoryFd = openProcessMemory(process.pid)): Promise<Made> {
  lastCid += 1;
  const spec = {
    id: `d${lastCid}`,
    guestCid: lastCid,
    vhostSocketPath: join(dir, `d${lastCid}.vhost`),
    channelPath: join(dir, `d${lastCid}`),
    copiesMemory: true,
  };
  const device = await host.attach(spec);
  if (memoryFd >= 0) device.setProcessMemory(memoryFd);
  return { ...spec, device };
}

async function boot(made: Made, rings?: Partial<GuestRingsOptions>): Promise<VhostFrontEnd> {
  const frontEnd = await VhostFrontEnd.start(made.vhostSocketPath, made.guestCid, rings);
  frontEnds.push(frontEnd);
  return frontEnd;
}

/** Echoes everything that a guest sends to port 80. */
async function echo({ channelPath }: Made): Promise<void> {
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.pipe(socket);
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(`${channelPath}_80`, resolve));
}

const hash = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

it.each([
  ['as Linux cuts them', {}],
  ['longer than any packet, more than there is room for', { rxCuts: [66_000] }],
  ['in many pieces', { rxCuts: [10, 40, 1000, 3000], txCuts: [20, 24, 100] }],
] satisfies [string, Partial<GuestRingsOptions>][])(
  'carries bytes both ways through buffers %s',
  async (_name, rings) => {
    const made = await attach();
    const guest = await boot(made, rings);
    await echo(made);
    const bytes = randomBytes(4 * MIB);
    const stream = guest.guest.dial(80, 1);
    const parts: Uint8Array[] = [];
    let sent = 0;
    let received = 0;
    await guest.until(() => {
      if (stream.toSend.length === 0 && sent < bytes.length) {
        stream.write(bytes.subarray(sent, sent + 256 * 1024));
        sent += 256 * 1024;
      }
      const part = stream.read();
      parts.push(part);
      received += part.length;
      return received >= bytes.length;
    }, 'all bytes back');
    expect(hash(Buffer.concat(parts))).toBe(hash(bytes));
    expect(await made.device.stats()).toMatchObject({ protocolErrors: 0, connectionsOpen: 1 });
  },
);

it('carries the first bytes of a host program, and the ends of input', async () => {
  const made = await attach();
  const guest = await boot(made);
  guest.guest.listening.add(5000);
  const client = connect({ path: made.channelPath, allowHalfOpen: true });
  const got = collect(client);
  client.end('CONNECT 5000\nquestion');
  await guest.until(() => guest.guest.accepted[0]?.hostEnded === true, 'the end in the guest');
  const stream = guest.guest.accepted[0];
  expect(Buffer.from(stream?.read() ?? []).toString()).toBe('question');
  stream?.write(Buffer.from('answer'));
  if (stream !== undefined) stream.wantsEnd = true;
  await guest.until(got.ended, 'the end at the host');
  expect(got.text()).toMatch(/answer$/);
});

it('several guests of one thread get only their own bytes', async () => {
  const all = await Promise.all(
    [1, 2, 3].map(async () => {
      const made = await attach();
      await echo(made);
      const guest = await boot(made);
      const bytes = randomBytes(512 * 1024);
      const stream = guest.guest.dial(80, 1);
      stream.write(bytes);
      return { guest, bytes, stream, parts: [] as Uint8Array[] };
    }),
  );
  const length = (parts: readonly Uint8Array[]): number => parts.reduce((sum, part) => sum + part.length, 0);
  await all[0]?.guest.until(() => {
    for (const { guest, stream, parts } of all) {
      guest.pump();
      parts.push(stream.read());
    }
    return all.every(({ bytes, parts }) => length(parts) >= bytes.length);
  }, 'all bytes back');
  for (const { bytes, parts } of all) expect(hash(Buffer.concat(parts))).toBe(hash(bytes));
});

it.each([
  ['unmaps its memory', (guest: VhostFrontEnd) => guest.unmap()],
  ['cuts its file off', (guest: VhostFrontEnd) => ftruncateSync(guest.memoryFd, 0)],
])('a VMM that %s in mid-transfer loses only its own device', async (_name, harm) => {
  const made = await attach();
  const other = await attach();
  const guest = await boot(made);
  const otherGuest = await boot(other);
  await echo(made);
  await echo(other);
  const stream = guest.guest.dial(80, 1);
  stream.write(Buffer.alloc(256 * 1024));
  await guest.until(() => stream.receivedBytes > 0, 'the first bytes');
  guest.kick(guest.rings.tx);
  harm(guest);
  guest.kick(guest.rings.tx);
  guest.kick(guest.rings.rx);
  expect(await made.device.closed).toEqual({
    reason: 'protocol-error',
    detail: expect.stringMatching(/ring: memory that can not be (read|written)/),
  });
  const otherStream = otherGuest.guest.dial(80, 1);
  otherStream.write(Buffer.from('still here'));
  await otherGuest.until(() => otherStream.receivedBytes === 10, 'the other guest');
});

it.each([
  ['of no process', async () => -1, 'memory of a process that is not known'],
  [
    'of a process that has ended',
    async () => {
      const child = spawn('sleep', ['60']);
      await once(child, 'spawn');
      const fd = openProcessMemory(child.pid ?? 0);
      child.kill('SIGKILL');
      await once(child, 'exit');
      return fd;
    },
    'memory that can not be reached',
  ],
])('a device with the memory %s is refused', async (_name, open, detail) => {
  const made = await attach(await open());
  const guest = VhostFrontEnd.connect(made.vhostSocketPath, made.guestCid);
  frontEnds.push(guest);
  await guest.negotiate();
  guest.shareMemory();
  guest.startRings([0, 0]);
  const closed = await made.device.closed;
  expect(closed.reason).toBe('protocol-error');
  expect(closed.detail).toContain(detail);
  guest.close();
  expect(openFds().filter((fd) => fd.endsWith('/mem'))).toEqual([]);
});

it('a VMM that lies about its addresses is refused, or gets errors', async () => {
  const made = await attach();
  const guest = VhostFrontEnd.connect(made.vhostSocketPath, made.guestCid, createMemFd('m', 64 * MIB));
  frontEnds.push(guest);
  await guest.negotiate();
  // Nothing is mapped there.
  guest.shareMemory(undefined, undefined, 0x10_0000);
  guest.startRings([0, 0]);
  guest.tell(REQUEST.getFeatures);
  expect((await made.device.closed).reason).toBe('protocol-error');
});

it('a VMM that lies about the address of answers loses its device with the first one', async () => {
  const made = await attach();
  const guest = VhostFrontEnd.connect(made.vhostSocketPath, made.guestCid);
  frontEnds.push(guest);
  await guest.negotiate();
  // Beyond every address of a process.
  guest.shareMemory(2 ** 40);
  for (let head = 0; head < 128; head += 1)
    guest.rings.rx.setDescriptor(head, GUEST_BASE + 2 ** 40 - 2 ** 16, 3776, 2, 0);
  guest.startRings([0, 0]);
  // The answer is a reset, and nothing comes from the guest after it.
  guest.rings.send({ op: OP.data, hostPort: 1, guestPort: 1 });
  guest.kick(guest.rings.tx);
  expect(await made.device.closed).toEqual({
    reason: 'protocol-error',
    detail: expect.stringMatching(/^RX ring: memory that can not be written/),
  });
});

/**
 * Maps the file at descriptor 3, prints the address, and waits: a VMM separate from the test, whose guest the test
 * plays.
 */
const MEMORY_HOLDER = `
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
print(libc.mmap(None, ctypes.c_size_t(os.fstat(3).st_size), 3, 1, 3, ctypes.c_long(0)), flush=True)
time.sleep(300)
`;

it.each(['SIGSTOP', 'SIGKILL'] as const)('a VMM that gets %s in mid-transfer stops no other guest', async (signal) => {
  const other = await attach();
  const otherGuest = await boot(other);
  await echo(other);
  const path = join(dir, 'apart.vhost');
  const spec = { id: 'apart', guestCid: 99, vhostSocketPath: path, copiesMemory: true };
  const device = await host.attach({ ...spec, channelPath: join(dir, 'apart') });
  const made = { ...spec, channelPath: join(dir, 'apart'), device };
  const guest = VhostFrontEnd.connect(path, made.guestCid);
  frontEnds.push(guest);
  await echo(made);
  const vmm = spawn('python3', ['-c', MEMORY_HOLDER], { stdio: ['ignore', 'pipe', 'inherit', guest.memoryFd] });
  const ended = once(vmm, 'exit');
  try {
    const [line] = (await once(vmm.stdout as Readable, 'data')) as [Buffer];
    device.setProcessMemory(openProcessMemory(vmm.pid ?? 0));
    await guest.negotiate();
    const userBase = Number(line.toString());
    guest.shareMemory(undefined, undefined, userBase);
    guest.startRings([0, 0], {}, userBase);
    const stream = guest.guest.dial(80, 1);
    stream.write(Buffer.alloc(256 * 1024));
    await guest.until(() => stream.receivedBytes > 0, 'the first bytes');
    vmm.kill(signal);
    if (signal === 'SIGKILL') await ended;
    stream.write(Buffer.alloc(256 * 1024));
    guest.pump();
    const otherStream = otherGuest.guest.dial(80, 1);
    otherStream.write(Buffer.from('still here'));
    await otherGuest.until(() => otherStream.receivedBytes === 10, 'the other guest');
    // A stopped process keeps its memory, so its device works; for an ended one, the socket reports the end.
    let received = 0;
    const hasAll = (): boolean => {
      received += stream.read().length;
      return received === 512 * 1024;
    };
    if (signal === 'SIGSTOP') await guest.until(hasAll, 'all bytes');
    guest.close();
    expect((await device.closed).reason).toBe('vmm-disconnected');
  } finally {
    vmm.kill('SIGKILL');
    await ended;
  }
});

/** Has memory whose pages come from a userfaultfd (userfaultfd(2)) that it never answers; prints its address. */
const HANGING_MEMORY = `
import ctypes, fcntl, mmap, struct, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
SIZE = 64 << 20
at = libc.mmap(None, ctypes.c_size_t(SIZE), 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, ctypes.c_long(0))
fd = libc.syscall(323, 0)
fcntl.ioctl(fd, 0xC018AA3F, bytearray(struct.pack('QQQ', 0xAA, 0, 0)))
fcntl.ioctl(fd, 0xC020AA00, bytearray(struct.pack('QQQQ', at, SIZE, 1, 0)))
print(at, flush=True)
time.sleep(300)
`;

it('a VMM whose memory never answers loses its device at once', async () => {
  const vmm = spawn('python3', ['-c', HANGING_MEMORY], { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(vmm, 'exit');
  try {
    const [line] = (await once(vmm.stdout, 'data')) as [Buffer];
    const userBase = Number(line.toString());
    const made = await attach(openProcessMemory(vmm.pid ?? 0));
    const guest = VhostFrontEnd.connect(made.vhostSocketPath, made.guestCid);
    frontEnds.push(guest);
    await guest.negotiate();
    guest.shareMemory(undefined, undefined, userBase);
    guest.startRings([0, 0], {}, userBase);
    expect((await made.device.closed).detail).toContain('memory that can not be reached');
  } finally {
    vmm.kill('SIGKILL');
    await ended;
  }
});
