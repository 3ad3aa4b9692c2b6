/** The real worker, sockets, memory and eventfds; only the guest is simulated (`VhostFrontEnd`). */
import { spawn } from 'node:child_process';
import { closeSync, existsSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { VhostFrontEnd } from '../../prove/vmm/vhost-front-end.ts';
import { countBytes } from '../../prove/vms/rate-counts.ts';
import { limitedTries, type Rate } from '../../prove/vms/rate-verdict.ts';
import type { BucketLimit } from '../../src/base/token-bucket.ts';
import { GIB, MIB } from '../../src/base/units.ts';
import {
  createVsockHost,
  type VsockDevice,
  type VsockDeviceSpec,
  type VsockHost,
} from '../../src/machine/vsock/host.ts';
import { GRANT_BYTES_MAX } from '../../src/machine/vsock/limits.ts';
import { REQUEST } from '../../src/machine/vsock/vhost-user.ts';
import { fileIdentity, sealSize } from '../../src/sys/fd.ts';
import { libc } from '../../src/sys/libc.ts';
import { connectUnix } from '../../src/sys/socket.ts';
import { collect, guestMappings, openFds } from '../support/process-view.ts';

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

/** Room for the rings of a front end; a multiple of a huge page. */
const MEMORY_BYTES = 64 * MIB;
/** memfd_create(2) */
const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const MFD_HUGETLB = 4;
const memfdCreate = libc.func('int memfd_create(const char *name, unsigned int flags)');

function sealedMemFd(flags: number): number {
  const fd: number = memfdCreate('memory', MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
  ftruncateSync(fd, MEMORY_BYTES);
  sealSize(fd);
  return fd;
}

interface Made {
  readonly device: VsockDevice;
  readonly spec: VsockDeviceSpec;
}

async function attach(change: Partial<VsockDeviceSpec> = {}): Promise<Made> {
  lastCid += 1;
  const name = `d${lastCid}`;
  const spec = {
    id: name,
    guestCid: lastCid,
    vhostSocketPath: join(dir, `${name}.vhost`),
    channelPath: join(dir, name),
    ...change,
  };
  return { device: await host.attach(spec), spec };
}

async function boot({ spec }: Made): Promise<VhostFrontEnd> {
  const frontEnd = await VhostFrontEnd.start(spec.vhostSocketPath, spec.guestCid);
  frontEnds.push(frontEnd);
  return frontEnd;
}

async function listen(path: string, serve: (socket: Socket) => void): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, serve);
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(path, 2048, resolve));
  return server;
}

setFlagsFromString('--expose-gc');
const collectGarbage: () => void = runInNewContext('gc');

describe('host clients', () => {
  it('CONNECT with payload in the same segment: answers OK, then carries bytes both ways', async () => {
    const made = await attach();
    const guest = await boot(made);
    guest.guest.listening.add(5000);
    const client = connect(made.spec.channelPath);
    const got = collect(client);
    client.write('CONNECT 5000\nfirst');
    await guest.until(() => (guest.guest.accepted[0]?.receivedBytes ?? 0) === 5, 'first bytes');
    expect(Buffer.from(guest.guest.accepted[0]?.read() ?? []).toString()).toBe('first');
    guest.guest.accepted[0]?.write(Buffer.from('answer'));
    await guest.until(() => got.text().endsWith('answer'), 'the answer');
    expect(got.text()).toMatch(/^OK \d+\nanswer$/);
    expect(await made.device.stats()).toMatchObject({ connectionsOpened: 1, connectionsOpen: 1 });
    client.destroy();
    await guest.until(() => guest.guest.streams.size === 0, 'the end');
  });

  it('accepts a CONNECT line byte by byte', async () => {
    const made = await attach();
    const guest = await boot(made);
    guest.guest.listening.add(5000);
    const client = connect(made.spec.channelPath);
    client.setNoDelay();
    const got = collect(client);
    for (const byte of 'CONNECT 5000\n') {
      client.write(byte);
      guest.pump();
      await nextTurn();
    }
    await guest.until(() => got.text().startsWith('OK'), 'OK');
    client.destroy();
  });

  it.each(['GET / HTTP/1.1\r\n\r\n', 'C'.repeat(64), 'CONNECT 99999999999\n'])(
    'closes a client that sends %j',
    async (line) => {
      const made = await attach();
      const guest = await boot(made);
      const client = connect(made.spec.channelPath);
      const got = collect(client);
      client.write(line);
      await guest.until(got.ended, 'the close');
      expect(got.text()).toBe('');
    },
  );

  it('closes a client whose port has no listener in the guest', async () => {
    const made = await attach();
    const guest = await boot(made);
    const client = connect(made.spec.channelPath);
    const got = collect(client);
    client.write('CONNECT 5001\n');
    await guest.until(got.ended, 'the close');
    expect(got.text()).toBe('');
  });

  it('carries the ends of input both ways independently', async () => {
    const made = await attach();
    const guest = await boot(made);
    guest.guest.listening.add(5000);
    const client = connect({ path: made.spec.channelPath, allowHalfOpen: true });
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
});

describe('guests', () => {
  it('reach a listener; ports without one, or not allowed, are refused', async () => {
    const made = await attach({ guestPorts: [80, 81] });
    const guest = await boot(made);
    let got: ReturnType<typeof collect> | undefined;
    await listen(`${made.spec.channelPath}_80`, (socket) => {
      got = collect(socket);
      socket.write('welcome');
    });
    await listen(`${made.spec.channelPath}_82`, () => undefined);
    const [good, nobody, forbidden] = [80, 81, 82].map((port) => guest.guest.dial(port, port));
    good?.write(Buffer.from('hello'));
    await guest.until(
      () => got?.text() === 'hello' && nobody?.state === 'reset' && forbidden?.state === 'reset',
      'three answers',
    );
    await guest.until(() => good?.receivedBytes === 7, 'the welcome');
    expect(await made.device.stats()).toMatchObject({ connectionsRefused: 2, protocolErrors: 0 });
  });

  it('10 000 connections in sequence and 50 at once: nothing is left behind (S8)', async () => {
    const made = await attach();
    const guest = await boot(made);
    let accepted = 0;
    await listen(`${made.spec.channelPath}_80`, (socket) => {
      accepted += 1;
      socket.on('error', () => undefined);
      socket.resume();
      socket.on('end', () => socket.end());
    });
    const rssBefore = process.memoryUsage().rss;
    for (let batch = 0; batch < 200; batch += 1) {
      const streams = Array.from({ length: 50 }, (_, index) => guest.guest.dial(80, 1000 + batch * 50 + index));
      await guest.until(() => streams.every(({ state }) => state === 'open'), `batch ${batch}`);
      for (const stream of streams) stream.wantsClose = true;
      // Node accepts one connection per turn of its loop: a backlog that grew from batch to batch would be full.
      const isOver = () => guest.guest.streams.size === 0 && accepted === (batch + 1) * 50;
      await guest.until(isOver, `end of batch ${batch}`);
    }
    expect(await made.device.stats()).toMatchObject({
      connectionsOpened: 10_000,
      connectionsOpen: 0,
      connectionsRefused: 0,
    });
    expect(process.memoryUsage().rss - rssBefore).toBeLessThan(128 * 1024 * 1024);
    const again = guest.guest.dial(80, 5);
    await guest.until(() => again.state === 'open', 'one more');
  });

  it('1 GiB each way at once arrives, and memory stays flat (R-IPC-3)', async () => {
    const made = await attach();
    const guest = await boot(made);
    let fromGuest = 0;
    const block = Buffer.alloc(256 * 1024);
    await listen(`${made.spec.channelPath}_80`, (socket) => {
      socket.on('data', (part) => {
        fromGuest += part.length;
      });
      let sent = 0;
      const send = (): void => {
        while (sent < GIB) {
          sent += block.length;
          if (!socket.write(block)) {
            socket.once('drain', send);
            return;
          }
        }
      };
      send();
    });
    const stream = guest.guest.dial(80, 1);
    let toGuest = 0;
    let written = 0;
    let rssMax = 0;
    let rssBefore = 0;
    let nextLook = GIB / 8;
    await guest.until(
      () => {
        if (stream.toSend.length === 0 && written < GIB) {
          stream.write(block);
          written += block.length;
        }
        toGuest += stream.receivedBytes;
        stream.received.length = 0;
        stream.forwarded = (stream.forwarded + stream.receivedBytes) >>> 0;
        stream.receivedBytes = 0;
        if (toGuest >= nextLook) {
          nextLook += GIB / 32;
          // V8 lets 64 MB of dead buffers gather: those of this thread's own sockets, as many as the bound.
          collectGarbage();
          const rss = process.memoryUsage.rss();
          if (rssBefore === 0) rssBefore = rss;
          rssMax = Math.max(rssMax, rss);
        }
        return fromGuest >= GIB && toGuest >= GIB;
      },
      '2 GiB',
      100_000,
    );
    expect([fromGuest, toGuest]).toEqual([GIB, GIB]);
    expect(rssMax - rssBefore).toBeLessThan(64 * 1024 * 1024);
  });
});

describe('limits', () => {
  const limit: BucketLimit = { size: 100_000, refillPerSecond: 200_000 };
  const HALF: BucketLimit = { size: 50_000, refillPerSecond: 100_000 };
  const rateOf = ({ size, refillPerSecond: perSecond }: BucketLimit): Rate => ({
    size,
    perSecond,
    turn: GRANT_BYTES_MAX,
  });

  it('apply over any window of time, both ways, change live, and lose nothing', async () => {
    const made = await attach({ limits: { guestToHostBytes: limit, hostToGuestBytes: limit } });
    const guest = await boot(made);
    const BYTES = 2_000_000;
    let got: ReturnType<typeof collect> | undefined;
    await listen(`${made.spec.channelPath}_80`, (socket) => {
      got = collect(socket);
      socket.write(Buffer.alloc(BYTES));
    });
    let toGuest = 0;
    const both = (): [number, number] => [got?.bytes() ?? 0, toGuest];
    const counting = countBytes(() => made.device.stats());
    await counting.begun;
    const stream = guest.guest.dial(80, 1);
    stream.write(new Uint8Array(BYTES));
    const passed = (bytes: number, what: string): Promise<void> =>
      guest.until(() => {
        toGuest += stream.read().length;
        return both().every((each) => each >= bytes);
      }, what);
    await passed(400_000, 'throttled bytes');
    for (const counts of await counting.stop()) {
      expect(limitedTries('', counts, rateOf(limit)).map(({ ok }) => ok)).toEqual([true, true]);
      // Half of this limit would be exceeded.
      expect(limitedTries('', counts, rateOf(HALF))[0]?.ok).toBe(false);
    }
    const stats = await made.device.stats();
    expect(stats.throttledMsGuestToHost).toBeGreaterThan(0);
    expect(stats.throttledMsHostToGuest).toBeGreaterThan(0);
    await made.device.setLimits({ guestToHostBytes: HALF, hostToGuestBytes: HALF });
    const slower = countBytes(() => made.device.stats());
    await slower.begun;
    await passed(Math.max(...both()) + 150_000, 'bytes at half the rate');
    for (const counts of await slower.stop()) {
      expect(limitedTries('', counts, rateOf(HALF)).map(({ ok }) => ok)).toEqual([true, true]);
    }
    await made.device.setLimits({});
    await passed(BYTES, 'the rest');
    expect(both()).toEqual([BYTES, BYTES]);
  });

  it('are refused if invalid', async () => {
    const bad = { connections: { size: 0, refillPerSecond: 1 } };
    await expect(attach({ limits: bad })).rejects.toMatchObject({ code: 'invalid_spec' });
    const made = await attach();
    await expect(made.device.setLimits(bad)).rejects.toMatchObject({ code: 'invalid_spec' });
  });
});

describe('the VMM', () => {
  it('that ends closes its device: last bytes arrive, sockets and descriptors are gone', async () => {
    const before = await attach();
    await before.device.detach();
    const fds = openFds();
    const made = await attach();
    const guest = await boot(made);
    let got: ReturnType<typeof collect> | undefined;
    const server = await listen(`${made.spec.channelPath}_80`, (socket) => {
      got = collect(socket);
      socket.on('end', () => socket.end());
    });
    const stream = guest.guest.dial(80, 1);
    await guest.until(() => stream.state === 'open', 'open');
    stream.write(new Uint8Array(50_000).fill(65));
    guest.pump();
    guest.close();
    expect(await made.device.closed).toEqual({ reason: 'vmm-disconnected', detail: '' });
    while (got?.ended() !== true) await nextTurn();
    expect(got.bytes()).toBe(50_000);
    expect(existsSync(made.spec.channelPath)).toBe(false);
    expect(existsSync(made.spec.vhostSocketPath)).toBe(false);
    expect((await made.device.stats()).bytesGuestToHost).toBe(50_000);
    await new Promise((resolve) => server.close(resolve));
    expect(guestMappings()).toBe(0);
    await expect.poll(openFds).toEqual(fds);
  });

  it('that pauses keeps its connections, and their bytes arrive after the pause', async () => {
    const made = await attach();
    const guest = await boot(made);
    let got: ReturnType<typeof collect> | undefined;
    await listen(`${made.spec.channelPath}_80`, (socket) => {
      got = collect(socket);
    });
    const stream = guest.guest.dial(80, 1);
    stream.write(Buffer.from('before '));
    await guest.until(() => got?.text() === 'before ', 'first');
    const bases = await guest.stopRings();
    stream.write(Buffer.from('after'));
    guest.pump();
    guest.shareMemory();
    guest.startRings(bases);
    await guest.until(() => got?.text() === 'before after', 'the rest');
  });

  it('that plugs the device again starts without connections', async () => {
    const made = await attach();
    const guest = await boot(made);
    let got: ReturnType<typeof collect> | undefined;
    await listen(`${made.spec.channelPath}_80`, (socket) => {
      got = collect(socket);
    });
    const stream = guest.guest.dial(80, 1);
    await guest.until(() => stream.state === 'open', 'open');
    await guest.stopRings();
    await guest.negotiate();
    while (got?.ended() !== true) await nextTurn();
    expect(await made.device.stats()).toMatchObject({ connectionsOpen: 0 });
  });

  it.each<[string, (frontEnd: VhostFrontEnd) => void, RegExp]>([
    ['talks nonsense', (f) => f.tellRaw(new Uint8Array(64).fill(0xee)), /bytes/],
    ['claims more memory than its file has', (f) => f.shareMemory(2 ** 30), /of a file of/],
    ['starts a ring outside memory', (f) => f.startRings([0, 0]), /outside memory/],
    ['sends an unknown request', (f) => f.tell(200), /request 200: unknown/],
  ])('that %s loses its device; other devices keep working', async (_name, offend, detail) => {
    const good = await attach();
    const guest = await boot(good);
    guest.guest.listening.add(5000);
    const fds = openFds();
    const bad = await attach();
    const offender = VhostFrontEnd.connect(bad.spec.vhostSocketPath, bad.spec.guestCid);
    offend(offender);
    expect(await bad.device.closed).toMatchObject({ reason: 'protocol-error', detail: expect.stringMatching(detail) });
    offender.close();
    await expect.poll(openFds).toEqual(fds);
    const client = connect(good.spec.channelPath);
    const got = collect(client);
    client.write('CONNECT 5000\n');
    await guest.until(() => got.text().startsWith('OK'), 'the other guest');
    client.destroy();
  });

  it('whose guest breaks its ring loses the device', async () => {
    const made = await attach();
    const guest = await boot(made);
    guest.rings.tx.setDescriptor(0, 1, 44, 0, 0);
    guest.rings.tx.makeAvailable(0);
    guest.kick(guest.rings.tx);
    expect(await made.device.closed).toMatchObject({
      reason: 'protocol-error',
      detail: 'TX ring: a buffer of 44 bytes outside memory',
    });
  });

  it('maps only the memory file of its VM', async () => {
    const memoryFd = sealedMemFd(0);
    const made = await attach({ memory: fileIdentity(memoryFd) });
    const guest = VhostFrontEnd.connect(made.spec.vhostSocketPath, made.spec.guestCid, memoryFd);
    frontEnds.push(guest);
    await guest.negotiate();
    guest.shareMemory();
    guest.startRings([0, 0]);
    guest.guest.listening.add(5000);
    const client = connect(made.spec.channelPath);
    const got = collect(client);
    client.write('CONNECT 5000\n');
    await guest.until(() => got.text().startsWith('OK'), 'OK');
    client.destroy();
  });

  it.each([
    // Its pages are charged to this process, as many as a compromised VMM claims.
    ['a sealed sparse file', () => sealedMemFd(0)],
    // Touching it is SIGBUS if no huge page is free, the end of this process.
    ['a sealed file of huge pages', () => sealedMemFd(MFD_HUGETLB)],
    ['a file of a file system', () => openSync(join(dir, 'file'), 'w+')],
  ])('refuses %s in place of the memory of its VM', async (_name, open) => {
    // Starts the worker, so that the descriptors below are those of one device.
    await boot(await attach());
    const other = open();
    ftruncateSync(other, MEMORY_BYTES);
    const fds = openFds();
    const memoryFd = sealedMemFd(0);
    const made = await attach({ memory: fileIdentity(memoryFd) });
    const guest = VhostFrontEnd.connect(made.spec.vhostSocketPath, made.spec.guestCid, memoryFd);
    frontEnds.push(guest);
    guest.shareMemory(MEMORY_BYTES, other);
    expect(await made.device.closed).toMatchObject({
      reason: 'protocol-error',
      detail: 'vhost-user: request 5: a region of another file than the memory of this VM',
    });
    guest.close();
    await expect.poll(openFds).toEqual(fds);
    closeSync(other);
  });

  it('whose call eventfds block and are full delays no other device', async () => {
    const good = await attach();
    const guest = await boot(good);
    guest.guest.listening.add(5000);
    const bad = await attach();
    const offender = await boot(bad);
    offender.blockCalls();
    // The device answers with a reset, and with the interrupt for it.
    offender.guest.dial(80, 1);
    await offender.until(() => offender.guest.streams.size === 0, 'the reset');
    try {
      const client = connect(good.spec.channelPath);
      const got = collect(client);
      client.write('CONNECT 5000\n');
      await guest.until(() => got.text().startsWith('OK'), 'the other guest', 5_000);
      client.destroy();
      expect(await bad.device.stats()).toMatchObject({ connectionsRefused: 1 });
    } finally {
      offender.close();
    }
  });

  it.each<[string, number]>([
    ['call', REQUEST.setVringCall],
    ['kick', REQUEST.setVringKick],
  ])('that hands over a socket as %s descriptor loses its device', async (role, request) => {
    const other = await attach();
    await boot(other);
    const socket = connectUnix(other.spec.channelPath);
    await other.device.stats();
    const fds = openFds();
    const made = await attach();
    const offender = VhostFrontEnd.connect(made.spec.vhostSocketPath, made.spec.guestCid);
    frontEnds.push(offender);
    await offender.negotiate();
    offender.shareMemory();
    offender.startRings([0, 0], { [role]: socket });
    expect(await made.device.closed).toMatchObject({
      reason: 'protocol-error',
      detail: `vhost-user: request ${request}: a descriptor for ring 0 that is no eventfd`,
    });
    offender.close();
    await expect.poll(openFds).toEqual(fds);
    closeSync(socket);
  });

  it('is alone: a second front end is refused', async () => {
    const made = await attach();
    await boot(made);
    expect(() => VhostFrontEnd.connect(made.spec.vhostSocketPath, 1)).toThrow('connect');
    expect(REQUEST.setOwner).toBe(3);
  });
});

describe('VsockHost', () => {
  it('attach: reuses its paths after detach, and those of a killed process', async () => {
    const made = await attach();
    const guest = await boot(made);
    await guest.until(() => true, '');
    await made.device.detach();
    await made.device.detach();
    expect(await made.device.closed).toEqual({ reason: 'detached', detail: '' });
    await expect(made.device.setLimits({})).rejects.toMatchObject({ code: 'device_closed' });
    const stale = createServer();
    await new Promise<void>((resolve) => stale.listen(made.spec.channelPath, resolve));
    await expect(host.attach(made.spec)).rejects.toMatchObject({ code: 'path_in_use' });
    expect(existsSync(made.spec.vhostSocketPath)).toBe(false);
    await leaveSocketBehind(made.spec.vhostSocketPath);
    await new Promise((resolve) => stale.close(resolve));
    const again = await host.attach(made.spec);
    const second = await VhostFrontEnd.start(made.spec.vhostSocketPath, made.spec.guestCid);
    frontEnds.push(second);
    await again.detach();
  });

  it.each([
    [{ guestCid: 2 }, 'invalid_spec'],
    [{ guestCid: 0xffffffff }, 'invalid_spec'],
    [{ channelPath: `/tmp/${'x'.repeat(92)}` }, 'invalid_spec'],
    [{ guestPorts: [-1] }, 'invalid_spec'],
    [{ channelPath: '/nonexistent/x' }, 'listen_failed'],
  ])('refuses %j with %s', async (change, code) => {
    await expect(attach(change)).rejects.toMatchObject({ code });
  });

  it('close: ends all devices, and attach fails afterwards', async () => {
    const made = await attach();
    await boot(made);
    await host.close();
    expect(await made.device.closed).toMatchObject({ reason: 'detached' });
    await expect(attach()).rejects.toMatchObject({ code: 'host_closed' });
    await host.close();
  });

  it.each([
    ['ends by itself once its device is detached', 'await device.detach();', 0],
    ['can be ended while a device is attached', 'process.exit(7);', 7],
    ['can fail while a device is attached', "throw new Error('x');", 1],
  ])('a process with a worker %s', async (_name, last, status) => {
    const module = JSON.stringify(new URL('../../src/machine/vsock/host.ts', import.meta.url).href);
    const paths = { vhostSocketPath: join(dir, 'v'), channelPath: join(dir, 'c') };
    const script = `const { createVsockHost } = await import(${module});
      const device = await createVsockHost().attach(${JSON.stringify({ id: 'x', guestCid: 9, ...paths })});
      await device.stats();
      ${last}`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: 'ignore' });
    const [code] = await new Promise<[number | null]>((resolve) => child.on('exit', (...all) => resolve([all[0]])));
    expect(code).toBe(status);
  });
});

async function leaveSocketBehind(path: string): Promise<void> {
  const script = `require('node:net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
  const child = spawn(process.execPath, ['-e', script], { stdio: 'ignore' });
  await new Promise((resolve) => child.on('exit', resolve));
  expect(existsSync(path)).toBe(true);
}
