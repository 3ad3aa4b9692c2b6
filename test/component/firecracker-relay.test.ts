/** The thread of all channels of Firecracker: where the bytes move, turns of VMs, bounds, and its end. */
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, openSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ChannelStats } from '../../src/base/channel.ts';
import { type Clock, FakeClock, systemClock } from '../../src/base/clock.ts';
import { describeError } from '../../src/base/errors.ts';
import { silentLog } from '../../src/base/log.ts';
import { MIB } from '../../src/base/units.ts';
import { FdLedger } from '../../src/machine/vmm/firecracker/channel/fd-ledger.ts';
import { TURN_BYTES } from '../../src/machine/vmm/firecracker/channel/guest-channel.ts';
import { type Command, NO_STATS } from '../../src/machine/vmm/firecracker/channel/messages.ts';
import type { ChannelRelay } from '../../src/machine/vmm/firecracker/channel/relay.ts';
import { RelayHost } from '../../src/machine/vmm/firecracker/channel/relay-host.ts';
import { RelayLoop } from '../../src/machine/vmm/firecracker/channel/relay-loop.ts';
import { PIECE_BYTES_MAX } from '../../src/machine/vmm/firecracker/channel/relay-socket.ts';
import {
  type RelayThread,
  type StartRelayThread,
  startRelayThread,
} from '../../src/machine/vmm/firecracker/channel/relay-thread.ts';
import { closeFd, createMemFd } from '../../src/sys/fd.ts';
import { acceptUnix, connectUnix, FdChannel, listenUnix } from '../../src/sys/socket.ts';
import { listenForGuestPort, readAll } from '../support/channel.ts';

const PATIENT = { timeout: 60_000 };
const END = join(import.meta.dirname, '../fixtures/channel-end.ts');
const PEERS = join(import.meta.dirname, '../fixtures/channel-peers.ts');
const PEERS_MS_MAX = 60_000;

let dir: string;
const relays: ChannelRelay[] = [];
const hosts: RelayHost[] = [];
const servers: Server[] = [];
const sockets: Socket[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-channels-'));
});
afterEach(async () => {
  for (const relay of relays.splice(0)) await relay.close();
  for (const host of hosts.splice(0)) await host.close();
  for (const socket of sockets.splice(0)) socket.destroy();
  for (const server of servers.splice(0)) server.close();
  rmSync(dir, { recursive: true, force: true });
});

/** The path of a VM's channel, in a directory of its own. */
function channelOf(vm: string): string {
  mkdirSync(join(dir, vm), { mode: 0o700 });
  return join(dir, vm, 'v');
}

function newHost(clock: Clock = systemClock, start?: StartRelayThread): RelayHost {
  const host = new RelayHost(silentLog, clock, start);
  hosts.push(host);
  return host;
}

async function open(host: RelayHost, channelPath: string): Promise<ChannelRelay> {
  const relay = host.open(channelPath, {});
  relays.push(relay);
  await relay.prepare();
  await relay.connect();
  return relay;
}

async function listen(path: string, take: (socket: Socket) => void): Promise<void> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.push(socket);
    socket.on('error', () => socket.destroy());
    take(socket);
  });
  servers.push(server);
  server.listen(path);
  await once(server, 'listening');
}

async function dial(path: string): Promise<Socket> {
  const socket = connect({ path, allowHalfOpen: true });
  sockets.push(socket);
  socket.on('error', () => socket.destroy());
  await once(socket, 'connect');
  return socket;
}

/** A host whose threads can be inspected. */
function watchedHost() {
  const threads: RelayThread[] = [];
  const ends: (string | null)[] = [];
  const clock = new FakeClock();
  const host = newHost(clock, (received, ended) => {
    const thread = startRelayThread(received, (fault) => {
      ends.push(fault);
      ended(fault);
    });
    threads.push(thread);
    return thread;
  });
  return { host, clock, threads, ends };
}

describe('the thread of all channels', () => {
  it('relays bytes both ways while the main thread is blocked', async () => {
    const channelPath = channelOf('a');
    writeFileSync(`${channelPath}_2000`, '');
    const relay = await open(newHost(), channelPath);
    rmSync(`${channelPath}_2000`);
    const bytes = 8 * MIB;
    // Nothing on this event loop runs until the process has ended.
    const peers = spawnSync(process.execPath, [PEERS, channelPath, relay.innerPath, String(bytes)], {
      encoding: 'utf8',
      timeout: PEERS_MS_MAX,
    });
    expect(peers.stderr).toBe('');
    expect(JSON.parse(peers.stdout)).toEqual({ received: bytes, echoed: bytes });
    const expected = { bytesGuestToHost: bytes, bytesHostToGuest: bytes, connectionsOpened: 1 };
    expect(await relay.stats()).toMatchObject(expected);
  });

  it('buffers no bytes for receivers that do not read', async () => {
    const channelPath = channelOf('a');
    const port = await listenForGuestPort(channelPath, 2000);
    const relay = await open(newHost(), channelPath);
    const guests: Socket[] = [];
    const sent = Buffer.alloc(4 * MIB, 'x');
    for (let count = 0; count < 8; count += 1) {
      const guest = await dial(`${relay.innerPath}_2000`);
      guest.write(sent);
      guests.push(guest);
      (await port.accept()).pause();
    }
    const moved = async (): Promise<number> => (await relay.stats()).bytesGuestToHost;
    await expect.poll(moved, PATIENT).toBeGreaterThan(0);
    let before = -1;
    for (let now = await moved(); now !== before; now = await moved()) {
      before = now;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    // Only the buffers of the kernel and of this test's sockets.
    expect(before / guests.length).toBeLessThan(MIB);
    for (const guest of guests) expect(guest.writableLength).toBeGreaterThan(0);
    await port.close();
  });

  it('gives each VM one bounded turn before any gets another', async () => {
    const answers = new Map<number, ChannelStats>();
    const loop = new RelayLoop({
      clock: systemClock,
      ledger: new FdLedger(),
      report: (report) => {
        if (report.kind === 'answer') answers.set(report.request, report.stats);
      },
    });
    const channels: number[] = [];
    const host = new RelayHost(silentLog, systemClock, (_received, ended) => ({
      ledger: new FdLedger(),
      keepAlive: () => undefined,
      post(command: Command) {
        if (command.kind === 'stop') ended(null);
        else {
          if (command.kind === 'open') channels.push(command.channel);
          loop.obey(command);
        }
      },
    }));
    const moved = (channel: number): number => {
      loop.obey({ kind: 'stats', channel, request: channel });
      return answers.get(channel)?.bytesGuestToHost ?? Number.NaN;
    };
    // One VM with many connections beside one with a single connection.
    const counts = [24, 1];
    for (const [index, count] of counts.entries()) {
      const channelPath = channelOf(`vm${index}`);
      await listen(`${channelPath}_2000`, (socket) => socket.resume());
      const relay = host.open(channelPath, {});
      await relay.prepare();
      for (let n = 0; n < count; n += 1) {
        const guest = await dial(`${relay.innerPath}_2000`);
        guest.write(Buffer.alloc(4 * MIB, 'x'));
      }
    }
    let turnsOfBoth = 0;
    const before = [0, 0];
    for (let turn = 0; turn < 200 && turnsOfBoth < 5; turn += 1) {
      loop.turn(0);
      const gained = channels.map((channel, index) => {
        const now = moved(channel);
        const gain = now - (before[index] ?? 0);
        before[index] = now;
        return gain;
      });
      for (const gain of gained) expect(gain).toBeLessThan(TURN_BYTES + PIECE_BYTES_MAX);
      const [many = 0, one = 0] = gained;
      // However much the other sends, a piece of the single connection passes.
      if (many >= TURN_BYTES && one > 0) turnsOfBoth += 1;
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(turnsOfBoth).toBe(5);
    loop.close();
  });

  it('refuses connections beyond the limit of a VM, and keeps the others', async () => {
    const channelPath = channelOf('a');
    const port = await listenForGuestPort(channelPath, 2000);
    const relay = await open(newHost(), channelPath);
    const guests: Socket[] = [];
    const handled = async (): Promise<number> => {
      const { connectionsOpened, connectionsRefused } = await relay.stats();
      return connectionsOpened + connectionsRefused;
    };
    for (let count = 0; count < 1_030; count += 1) {
      const guest = await dial(`${relay.innerPath}_2000`);
      guests.push(guest);
      // Fewer than a backlog holds.
      if (count % 100 === 0) await expect.poll(handled, PATIENT).toBe(guests.length);
    }
    await expect
      .poll(() => relay.stats(), PATIENT)
      .toMatchObject({ connectionsOpened: 1_024, connectionsOpen: 1_024, connectionsRefused: 6 });
    const host = await port.accept();
    host.end('still served');
    const [first] = guests;
    if (first === undefined) throw new Error('no guest');
    expect((await readAll(first)).toString()).toBe('still served');
    await port.close();
  });

  it('serves all channels, and ends with its host or a minute after its last channel', async () => {
    const { host, clock, threads, ends } = watchedHost();
    const one = await open(host, channelOf('a'));
    const two = await open(host, channelOf('b'));
    await one.close();
    clock.advance(120_000);
    await two.close();
    clock.advance(59_000);
    const three = await open(host, channelOf('c'));
    clock.advance(120_000);
    expect(await three.stats()).toMatchObject({ connectionsOpened: 0 });
    expect(threads.length).toBe(1);
    await three.close();
    expect(ends).toEqual([]);
    clock.advance(60_000);
    await expect.poll(() => ends, PATIENT).toEqual([null]);
    const four = await open(host, channelOf('d'));
    expect(await four.stats()).toMatchObject({ connectionsOpened: 0 });
    await four.close();
    await host.close();
    await host.close();
    expect(ends).toEqual([null, null]);
    for (const thread of threads) expect(thread.ledger.all()).toEqual([]);
  });

  it('close: a process that waits for nothing else can exit', () => {
    const ended = spawnSync(process.execPath, [END, channelOf('a')], { encoding: 'utf8' });
    expect(ended).toMatchObject({ stdout: 'ended\n', stderr: '', status: 0 });
  });

  it('crash: a typed error for each VM, an end of all connections, and another thread for the next', async () => {
    const { host, threads, ends } = watchedHost();
    const [a, b] = [channelOf('a'), channelOf('b')];
    const port = await listenForGuestPort(a, 2000);
    const one = await open(host, a);
    const two = await open(host, b);
    const guest = await dial(`${one.innerPath}_2000`);
    const service = await port.accept();
    const pending = two.stats();
    // No such command can come: each channel is opened once.
    threads[0]?.post({ kind: 'open', channel: 1, innerPath: '', limits: {} });
    const unanswered = one.stats();
    const gone = { code: 'vm_gone', message: "the VM's channel has failed" };
    await pending;
    await expect(unanswered).rejects.toMatchObject(gone);
    for (const relay of [one, two]) {
      expect(await relay.broken).toMatchObject(gone);
      await expect(relay.stats()).rejects.toMatchObject(gone);
      await expect(relay.setLimits({})).rejects.toMatchObject(gone);
      await expect(relay.connect()).rejects.toMatchObject(gone);
    }
    expect(ends).toEqual([expect.stringContaining('the channel is new')]);
    expect(threads[0]?.ledger.all()).toEqual([]);
    for (const socket of [guest, service]) expect(await readAll(socket)).toHaveLength(0);
    for (const relay of [one, two]) await relay.close();
    expect(readdirSync(join(dir, 'b'))).toEqual([]);
    const next = await open(host, channelOf('c'));
    expect(await next.stats()).toMatchObject({ connectionsRefused: 0 });
    await port.close();
  });

  it('crash: if the thread was already ending, the next one is unaffected', async () => {
    const ends: ((fault: string | null) => void)[] = [];
    const stopped: number[] = [];
    const clock = new FakeClock();
    const host = newHost(clock, (received, ended) => {
      const thread = ends.push(ended) - 1;
      return {
        ledger: new FdLedger(),
        keepAlive: () => undefined,
        post(command) {
          if (command.kind === 'close') received({ kind: 'answer', request: command.request, stats: NO_STATS });
          if (command.kind !== 'stop') return;
          stopped.push(thread);
          if (thread > 0) ended(null);
        },
      };
    });
    const relay = host.open(channelOf('a'), {});
    await relay.close();
    clock.advance(60_000);
    relays.push(host.open(channelOf('b'), {}));
    ends[0]?.('out of memory');
    await host.close();
    expect(stopped).toEqual([0, 1]);
  });

  it('listen: a socket that the kernel does not watch ends its channel', async () => {
    const { host, threads } = watchedHost();
    const [one, other] = [await open(host, channelOf('a')), await open(host, channelOf('b'))];
    // Stands for a limit on watches: epoll refuses a plain file.
    const fd = openSync(join(dir, 'plain'), 'w');
    threads[0]?.ledger.add(fd);
    threads[0]?.post({ kind: 'listen', channel: 1, fd, hostPath: null });
    expect(describeError(await one.broken)).toContain('epoll_ctl');
    await one.close();
    await other.disconnect();
    expect(threads[0]?.ledger.all()).not.toContain(fd);
  });

  it('descriptors from a compromised VMM end only its channel, and another thread closes them', async () => {
    const { host, threads } = watchedHost();
    const [a, b] = [channelOf('a'), channelOf('b')];
    const port = await listenForGuestPort(a, 2000);
    const hostile = await open(host, a);
    const other = await open(host, b);
    const guest = connectUnix(`${hostile.innerPath}_2000`);
    const memory = createMemFd('of-the-vmm', 4096);
    const sender = new FdChannel(16, 3);
    sender.send(guest, Buffer.from('bytes'), [memory, memory, memory]);
    const error = await hostile.broken;
    expect(describeError(error)).toContain('descriptors came over the channel');
    await hostile.close();
    closeFd(memory);
    const stillOpen = (): string[] => namesOfDescriptors().filter((name) => name.includes('of-the-vmm'));
    await expect.poll(stillOpen, PATIENT).toEqual([]);
    expect(await other.stats()).toMatchObject({ connectionsOpened: 0 });
    expect(threads.length).toBe(1);
    closeFd(guest);
    await port.close();
  });

  it('descriptors in an invalid answer: the requesting program gets an end', async () => {
    const { host } = watchedHost();
    const hostile = await open(host, channelOf('a'));
    // Otherwise the thread would end, with all its descriptors.
    await open(host, channelOf('b'));
    const vmm = listenUnix(hostile.innerPath, 1);
    const client = await dial(join(dir, 'a', 'v'));
    client.write('CONNECT 5000\n');
    const asked = await takeFrom(vmm);
    const memory = createMemFd('of-the-vmm', 4096);
    new FdChannel(64, 1).send(asked, Buffer.alloc(64, 'x'), [memory]);
    await hostile.broken;
    client.resume();
    await expect.poll(() => client.readableEnded, PATIENT).toBe(true);
    await hostile.close();
    for (const fd of [memory, asked, vmm]) closeFd(fd);
  });
});

async function takeFrom(listener: number): Promise<number> {
  let fd = -1;
  await expect
    .poll(() => {
      fd = acceptUnix(listener);
      return fd >= 0;
    }, PATIENT)
    .toBe(true);
  return fd;
}

function namesOfDescriptors(): string[] {
  return readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return 'closed meanwhile';
    }
  });
}
