import { describe, expect, it } from 'vitest';
import type { GuestStream } from '../../../prove/vmm/guest-peer.ts';
import type { MemorySocket } from '../../../test/support/memory-sockets.ts';
import { VsockWorld, type WorldOptions } from '../../../test/support/vsock-world.ts';
import { BACKLOG_TIMEOUT_MS, CLOSE_TIMEOUT_MS, CONNECTIONS_MAX, HELD_BYTES_MAX, REQUEST_TIMEOUT_MS } from './limits.ts';
import { OP, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE } from './packet.ts';

/** A world with one open connection that the guest dialled. */
function dialled(options: WorldOptions = {}): { world: VsockWorld; stream: GuestStream; socket: MemorySocket } {
  const world = new VsockWorld(options);
  world.host.listen(80);
  const stream = world.guest.dial(80, 2000);
  world.settle();
  const socket = world.host.accepted.get(80)?.[0];
  if (socket === undefined) throw new Error('not accepted');
  expect(stream.state).toBe('open');
  return { world, stream, socket };
}

const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text));
const ops = (world: VsockWorld): number[] => world.rings.receive().map((packet) => packet.op);

describe('Muxer: opening', () => {
  it('a guest reaches a listener, and bytes flow both ways', () => {
    const { world, stream, socket } = dialled();
    stream.write(bytes('question'));
    socket.programWrite(bytes('answer'));
    world.settle();
    expect(Buffer.from(socket.programRead()).toString()).toBe('question');
    expect(Buffer.from(stream.read()).toString()).toBe('answer');
    expect(world.muxer.stats(world.nowMs)).toMatchObject({
      bytesGuestToHost: 8,
      bytesHostToGuest: 6,
      connectionsOpened: 1,
      connectionsOpen: 1,
      protocolErrors: 0,
    });
  });

  it('resets a connection to a port without a listener, and to a forbidden one', () => {
    const world = new VsockWorld({ muxer: { guestPorts: new Set([80, 81]) } });
    world.host.listen(80);
    world.host.listen(99);
    const streams = [81, 99].map((port) => world.guest.dial(port, 2000));
    world.settle();
    expect(streams.map(({ state }) => state)).toEqual(['reset', 'reset']);
    expect(world.host.accepted.get(99)).toEqual([]);
    expect(world.muxer.stats(world.nowMs)).toMatchObject({ connectionsRefused: 2, connectionsOpen: 0 });
  });

  it('a host client gets OK with our port after the guest answered, and its first bytes wait', () => {
    const world = new VsockWorld();
    world.guest.listening.add(5000);
    const socket = world.host.socket();
    socket.programWrite(bytes('early'));
    world.muxer.addClient(socket, 5000, world.nowMs);
    expect(socket.programRead()).toHaveLength(0);
    world.settle();
    expect(Buffer.from(socket.programRead()).toString()).toBe('OK 1073741824\n');
    expect(Buffer.from(world.guest.accepted[0]?.read() ?? []).toString()).toBe('early');
  });

  it.each([
    [7, 2 ** 30 + 7],
    [2 ** 31 - 1, 2 ** 31 - 1],
  ])('ports of host clients start at the seed %i and wrap around', (clientPortSeed, first) => {
    const world = new VsockWorld({ muxer: { clientPortSeed } });
    world.guest.listening.add(5000);
    const answers = [0, 1].map(() => {
      const socket = world.host.socket();
      world.muxer.addClient(socket, 5000, world.nowMs);
      world.settle();
      return Buffer.from(socket.programRead()).toString();
    });
    const second = first === 2 ** 31 - 1 ? 2 ** 30 : first + 1;
    expect(answers).toEqual([`OK ${first}\n`, `OK ${second}\n`]);
  });

  it('closes a host client if the guest refuses or does not answer', () => {
    const world = new VsockWorld();
    const refused = world.host.socket();
    world.muxer.addClient(refused, 5000, world.nowMs);
    world.turn();
    const [request] = world.rings.receive();
    world.rings.send({ ...request, op: OP.reset, hostPort: request?.hostPort ?? 0, guestPort: 5000 });
    world.turn();
    expect(refused.isClosed).toBe(true);
    const silent = world.host.socket();
    world.muxer.addClient(silent, 5000, world.nowMs);
    world.turn();
    world.nowMs += REQUEST_TIMEOUT_MS;
    world.turn();
    expect(silent.isClosed).toBe(true);
    expect(ops(world)).toEqual([OP.request, OP.reset]);
  });

  it('a full backlog delays the guest, then refuses it, and does not delay other ports', () => {
    const world = new VsockWorld();
    world.host.listen(80);
    world.host.listen(81);
    world.host.busy.add(80);
    const [patient, unlucky] = [world.guest.dial(80, 1), world.guest.dial(80, 2)];
    const other = world.guest.dial(81, 3);
    world.settle();
    expect([patient.state, unlucky.state, other.state]).toEqual(['connecting', 'connecting', 'open']);
    world.nowMs += world.muxer.nextTimeoutMs(world.nowMs);
    world.host.busy.delete(80);
    world.turn();
    world.host.busy.add(80);
    const late = world.guest.dial(80, 4);
    world.settle();
    expect(patient.state).toBe('open');
    world.nowMs += BACKLOG_TIMEOUT_MS;
    world.settle();
    expect(late.state).toBe('reset');
  });

  it('refuses a connection beyond the limit, on both sides', () => {
    const world = new VsockWorld();
    world.host.listen(80);
    for (let port = 0; port < CONNECTIONS_MAX; port += 1) {
      world.guest.dial(80, port + 1);
      if (port % 8 === 7) world.settle();
    }
    world.settle();
    expect(world.muxer.connections).toBe(CONNECTIONS_MAX);
    const windows = [...world.guest.streams.values()].map(({ peerBufAlloc }) => peerBufAlloc);
    expect(windows.reduce((sum, each) => sum + each, 0)).toBeLessThanOrEqual(HELD_BYTES_MAX);
    const beyond = world.guest.dial(80, 99_999);
    world.settle();
    expect(beyond.state).toBe('reset');
    const client = world.host.socket();
    expect(world.muxer.addClient(client, 5000, world.nowMs)).toBe(false);
    expect(client.isClosed).toBe(true);
    expect(world.muxer.stats(world.nowMs).connectionsRefused).toBe(2);
  });
});

describe('Muxer: closing', () => {
  it('half close of the guest: the host reads to the end and may still answer', () => {
    const { world, stream, socket } = dialled();
    stream.write(bytes('all'));
    stream.wantsEnd = true;
    world.settle();
    expect(socket.isEnded).toBe(true);
    socket.programWrite(bytes('late answer'));
    world.settle();
    expect(Buffer.from(stream.read()).toString()).toBe('late answer');
  });

  it('half close of the host: the guest sees the end and may still answer', () => {
    const { world, stream, socket } = dialled();
    socket.programWrite(bytes('all'));
    socket.programEnd();
    world.settle();
    expect(stream.hostEnded).toBe(true);
    stream.write(bytes('late answer'));
    world.settle();
    expect(Buffer.from(socket.programRead()).toString()).toBe('late answer');
    stream.wantsClose = true;
    world.settle();
    expect(world.muxer.connections).toBe(0);
    expect(socket.isClosed).toBe(true);
  });

  it('a host program that closes: its bytes still arrive, then both sides forget the connection', () => {
    const { world, stream, socket } = dialled({ guestBufAlloc: 1000 });
    socket.programWrite(new Uint8Array(5000));
    socket.programClose(world.nowMs);
    let got = 0;
    for (let round = 0; round < 10; round += 1) {
      world.settle();
      got += stream.read().length;
    }
    expect(got).toBe(5000);
    expect(stream.state).toBe('closed');
    expect(world.muxer.connections).toBe(0);
  });

  it('a guest that closes: held bytes still reach a slow host program', () => {
    const { world, stream, socket } = dialled({ socketBytes: 100 });
    stream.write(new Uint8Array(5000));
    world.settle();
    stream.wantsClose = true;
    world.settle();
    expect(world.guest.streams.size).toBe(0);
    expect(world.muxer.connections).toBe(1);
    let got = 0;
    while (!socket.isClosed) {
      const count = socket.programRead().length;
      got += count;
      world.settle();
    }
    expect(got + socket.programRead().length).toBe(5000);
    expect(world.muxer.connections).toBe(0);
  });

  it('a guest that does not confirm is reset after the timeout', () => {
    const { world, socket } = dialled();
    socket.programClose(world.nowMs);
    world.turn();
    expect(ops(world)).toEqual([OP.shutdown]);
    world.nowMs += CLOSE_TIMEOUT_MS - 1;
    world.turn();
    expect(world.muxer.connections).toBe(1);
    world.nowMs += 1;
    world.turn();
    expect(ops(world)).toEqual([OP.reset]);
    expect(world.muxer.connections).toBe(0);
  });

  it('a host program that stops reading: the guest stream closes, and its bytes are dropped', () => {
    const { world, stream, socket } = dialled();
    socket.programClose(world.nowMs);
    stream.write(new Uint8Array(100_000));
    world.settle();
    expect(stream.state).toBe('closed');
    expect(world.muxer.connections).toBe(0);
  });

  it('SHUTDOWN of reading: the host socket is no longer read', () => {
    const { world, socket } = dialled();
    world.rings.send({ op: OP.shutdown, hostPort: 80, guestPort: 2000, flags: SHUTDOWN_RECEIVE, bufAlloc: 9999 });
    world.turn();
    expect(socket.isReadEnded).toBe(true);
    world.rings.send({ op: OP.shutdown, hostPort: 80, guestPort: 2000, flags: SHUTDOWN_BOTH });
    world.turn();
    expect(world.muxer.connections).toBe(0);
  });

  it('guestGone: frees every port; the guest’s next boot starts clean', () => {
    const { world, socket } = dialled();
    world.muxer.guestGone(world.nowMs);
    expect(socket.isClosed).toBe(true);
    expect(world.muxer.connections).toBe(0);
    world.guest.streams.clear();
    const again = world.guest.dial(80, 2000);
    world.settle();
    expect(again.state).toBe('open');
  });
});

describe('Muxer: back-pressure', () => {
  it('a host program that does not read stops only its own guest stream', () => {
    const { world, stream, socket } = dialled({ socketBytes: 1000 });
    stream.write(new Uint8Array(2_000_000));
    world.settle();
    const left = stream.toSend.reduce((sum, each) => sum + each.length, 0);
    expect(left).toBeGreaterThan(1_500_000);
    world.host.listen(81);
    const other = world.guest.dial(81, 3000);
    other.write(bytes('still here'));
    world.settle();
    const program = world.host.accepted.get(81)?.[0];
    expect(Buffer.from(program?.programRead() ?? []).toString()).toBe('still here');
    let got = 0;
    for (let round = 0; round < 5000 && got < 2_000_000; round += 1) {
      got += socket.programRead().length;
      world.turn();
      world.guest.pump();
    }
    expect(got).toBe(2_000_000);
  });

  it('a guest program that does not read stops its host stream at the guest window', () => {
    const { world, stream, socket } = dialled({ guestBufAlloc: 10_000 });
    socket.programWrite(new Uint8Array(50_000));
    world.settle();
    expect(stream.receivedBytes).toBe(10_000);
    stream.read();
    world.settle();
    expect(stream.receivedBytes).toBe(10_000);
    expect(world.guest.surprises).toEqual([]);
  });

  it('byte limits: in any window at most burst, refill and one grant', () => {
    const limit = { size: 10_000, refillPerSecond: 50_000, oneTimeBurst: 5_000 };
    const { world, stream, socket } = dialled({
      muxer: { limits: { guestToHostBytes: limit, hostToGuestBytes: limit } },
    });
    stream.write(new Uint8Array(1_000_000));
    socket.programWrite(new Uint8Array(1_000_000));
    const startMs = world.nowMs;
    let toHost = 0;
    let toGuest = 0;
    while (world.nowMs < startMs + 4000) {
      world.turn();
      world.guest.pump();
      toHost += socket.programRead().length;
      toGuest += stream.read().length;
      const most = 15_000 + ((world.nowMs - startMs) * 50_000) / 1000 + 64 * 1024;
      expect(toHost).toBeLessThanOrEqual(most);
      expect(toGuest).toBeLessThanOrEqual(most);
      world.nowMs += 1;
    }
    expect(toHost).toBeGreaterThan(150_000);
    expect(toGuest).toBeGreaterThan(150_000);
    const stats = world.muxer.stats(world.nowMs);
    expect(stats.throttledMsGuestToHost).toBeGreaterThan(1000);
    expect(stats.throttledMsHostToGuest).toBeGreaterThan(1000);
    world.muxer.setLimits({}, world.nowMs);
    world.settle();
    for (let round = 0; round < 2000; round += 1) {
      world.turn();
      world.guest.pump();
      toHost += socket.programRead().length;
      toGuest += stream.read().length;
    }
    expect([toHost, toGuest]).toEqual([1_000_000, 1_000_000]);
  });

  it('a throttled guest: control packets and an empty ring are not delayed', () => {
    const { world, stream } = dialled({ muxer: { limits: { guestToHostBytes: { size: 1, refillPerSecond: 1 } } } });
    stream.write(new Uint8Array(50_000));
    world.settle();
    const other = world.guest.dial(80, 2001);
    world.settle();
    expect(other.state).toBe('open');
    other.wantsClose = true;
    world.settle();
    expect(world.muxer.connections).toBe(1);
  });

  it('the connection limit delays connections, and refuses none', () => {
    const world = new VsockWorld({ muxer: { limits: { connections: { size: 1, refillPerSecond: 1 } } } });
    world.host.listen(80);
    const streams = [1, 2, 3].map((port) => world.guest.dial(80, port));
    world.settle();
    const open = (): number => streams.filter(({ state }) => state === 'open').length;
    expect(open()).toBe(1);
    world.nowMs += world.muxer.nextTimeoutMs(world.nowMs) + 1;
    world.settle();
    expect(open()).toBe(2);
    world.nowMs += 5000;
    world.settle();
    expect(open()).toBe(3);
    expect(world.muxer.stats(world.nowMs).connectionsRefused).toBe(0);
  });
});

describe('Muxer: a guest that breaks the protocol', () => {
  it.each([
    ['data for a closed connection', { op: OP.data, hostPort: 9, guestPort: 9, payload: bytes('x') }, OP.reset],
    ['an unknown type', { op: OP.request, hostPort: 80, guestPort: 9, type: 3 }, OP.reset],
    ['another guest as source', { op: OP.request, hostPort: 80, guestPort: 9, sourceCid: 43n }, undefined],
    ['another guest as destination', { op: OP.request, hostPort: 80, guestPort: 9, destinationCid: 43n }, undefined],
    ['RST for a closed connection', { op: OP.reset, hostPort: 9, guestPort: 9 }, undefined],
  ])('%s is answered by RST at most', (_name, packet, answer) => {
    const world = new VsockWorld();
    world.host.listen(80);
    world.rings.send(packet);
    world.turn();
    expect(ops(world)).toEqual(answer === undefined ? [] : [answer]);
    expect(world.muxer.connections).toBe(0);
  });

  it.each([
    ['a second REQUEST', { op: OP.request }],
    ['a RESPONSE to nothing', { op: OP.response }],
    ['an operation that does not exist', { op: 77 }],
    ['more payload than the buffers hold', { op: OP.data, payload: bytes('x'), length: 1000 }],
    ['more payload than a packet may have', { op: OP.data, payload: new Uint8Array(65_537) }],
  ])('%s resets only its connection', (_name, packet) => {
    const { world, socket } = dialled();
    const other = world.guest.dial(80, 2001);
    world.settle();
    world.rings.send({ hostPort: 80, guestPort: 2000, bufAlloc: 10_000, ...packet });
    world.turn();
    expect(ops(world)).toEqual([OP.reset]);
    expect(socket.isClosed).toBe(true);
    expect(other.state).toBe('open');
    expect(world.muxer.stats(world.nowMs)).toMatchObject({ protocolErrors: 1, connectionsOpen: 1 });
  });

  it('more bytes than its credit reset the connection', () => {
    const { world, stream } = dialled({ socketBytes: 10 });
    const packets = Math.ceil(stream.peerBufAlloc / 60_000) + 1;
    for (let count = 0; count < packets; count += 1) {
      world.rings.send({ op: OP.data, hostPort: 80, guestPort: 2000, payload: new Uint8Array(60_000), bufAlloc: 1 });
      world.turn();
    }
    expect(world.muxer.connections).toBe(0);
    expect(world.muxer.stats(world.nowMs).protocolErrors).toBe(1);
  });

  it('a window that shrinks in flight stops the stream, and opens again (S8)', () => {
    const { world, socket } = dialled({ guestBufAlloc: 10_000 });
    socket.programWrite(new Uint8Array(30_000));
    world.turn();
    const credit = (bufAlloc: number, fwdCount: number): number => {
      world.rings.send({ op: OP.creditUpdate, hostPort: 80, guestPort: 2000, bufAlloc, fwdCount });
      world.turn();
      return world.rings.receive().reduce((sum, packet) => sum + packet.payload.length, 0);
    };
    expect(world.rings.receive().reduce((sum, packet) => sum + packet.payload.length, 0)).toBe(10_000);
    expect(credit(100, 0)).toBe(0);
    expect(credit(0, 5_000)).toBe(0);
    expect(credit(100, 9_950)).toBe(50);
    expect(credit(10_000, 10_050)).toBe(10_000);
  });

  it('returns RX buffers too small for a header unused', () => {
    const world = new VsockWorld({ rxCuts: [43] });
    world.host.listen(80);
    world.guest.dial(80, 1);
    world.guest.pump();
    world.turn();
    expect(world.rings.rx.takeUsed()).toMatchObject({ written: 0 });
    expect(world.muxer.stats(world.nowMs).protocolErrors).toBeGreaterThan(0);
  });

  it('10 000 opens and closes leave nothing behind (S8)', () => {
    const world = new VsockWorld({ queueSize: 128 });
    world.host.listen(80);
    for (let round = 0; round < 10_000; round += 1) {
      const ports = { hostPort: 80, guestPort: round % 7 };
      world.rings.send({ op: OP.request, ...ports });
      world.rings.send({ op: OP.reset, ...ports });
      world.turn();
      if (round % 100 === 0) world.rings.receive();
    }
    expect(world.muxer.connections).toBe(0);
    expect(world.host.all.every(({ isClosed }) => isClosed)).toBe(true);
  });
});
