/**
 * Two targets on a whole device in memory. `vsock-muxer`: a hostile guest sends any packets beside an honest
 * connection, which must not be affected. `vsock-streams`: an honest guest and host programs act in any
 * order; every byte arrives once and in order, and nothing is left at the end.
 */
import fc from 'fast-check';
import type { GuestStream } from '../../prove/vmm/guest-peer.ts';
import { CONNECTIONS_MAX } from '../../src/machine/vsock/limits.ts';
import { OP } from '../../src/machine/vsock/packet.ts';
import type { MemorySocket } from '../support/memory-sockets.ts';
import { VsockWorld } from '../support/vsock-world.ts';
import { must, structured } from './target.ts';

const cuts = fc.record({
  rxCuts: fc.constantFrom([3776], [44, 4096], [20, 30, 100], [45], [70000], [43, 2, 1]),
  txCuts: fc.constantFrom([44], [], [10, 40], [44, 1, 7]),
  queueSize: fc.constantFrom(16, 32, 128),
  splitAt: fc.option(fc.double({ min: 0.3, max: 0.99, noNaN: true }), { nil: undefined }),
});

const u32 = fc.oneof(
  fc.constantFrom(0, 1, 43, 1024, 65536, 65537, 262144, 0x7fffffff, 0xffffffff),
  fc.nat({ max: 0xffffffff }),
);
const hostilePacket = fc.record(
  {
    op: fc.oneof(
      { weight: 9, arbitrary: fc.constantFrom(1, 2, 3, 4, 5, 5, 5, 6, 7) },
      { weight: 1, arbitrary: fc.nat({ max: 0xffff }) },
    ),
    hostPort: fc.constantFrom(80, 81, 99, 2 ** 30, 2 ** 30 + 1),
    guestPort: fc.constantFrom(1, 2, 5000),
    flags: fc.oneof(fc.nat({ max: 3 }), u32),
    bufAlloc: u32,
    fwdCount: u32,
    payload: fc.nat({ max: 70_000 }).map((size) => new Uint8Array(size)),
    length: u32,
    type: fc.constantFrom(1, 1, 1, 1, 0, 2, 0xffff),
    sourceCid: fc.constantFrom(42n, 42n, 42n, 43n, 2n ** 32n + 42n, 2n ** 64n - 1n),
    destinationCid: fc.constantFrom(2n, 2n, 2n, 3n, 2n ** 32n + 2n),
  },
  { requiredKeys: ['op', 'hostPort', 'guestPort'] },
);
const hostileStep = fc.oneof(
  { weight: 1, arbitrary: fc.constant({ kind: 'flood' as const }) },
  { weight: 10, arbitrary: hostilePacket.map((packet) => ({ kind: 'packet' as const, packet })) },
  { weight: 2, arbitrary: fc.constant({ kind: 'client' as const }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('program' as const),
      index: fc.nat({ max: 5 }),
      act: fc.constantFrom('write', 'read', 'end', 'close'),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('time' as const), ms: fc.nat({ max: 9000 }) }) },
  { weight: 3, arbitrary: fc.constant({ kind: 'turn' as const }) },
);

export const vsockMuxer = structured(
  'vsock-muxer',
  fc.record({ cuts, steps: fc.array(hostileStep, { maxLength: 60 }), isRemote: fc.boolean() }),
  ({ cuts: rings, isRemote, steps }) => {
    const world = new VsockWorld({ ...rings, isRemote, socketBytes: 30_000 });
    for (const port of [80, 81]) world.host.listen(port);
    world.host.busy.add(81);
    for (const step of steps) {
      if (step.kind === 'packet') world.rings.send(step.packet as never);
      else if (step.kind === 'flood') flood(world);
      else if (step.kind === 'client') world.muxer.addClient(world.host.socket(), 5000, world.nowMs);
      else if (step.kind === 'time') world.nowMs += step.ms;
      else if (step.kind === 'turn') {
        world.turn();
        world.rings.receive();
      } else program(world.host.all[step.index], step.act, world.nowMs);
      must(world.muxer.connections <= CONNECTIONS_MAX, 'too many connections');
    }
    // An honest connection afterwards: the device still works.
    world.host.listen(7);
    for (let turn = 0; turn < 40; turn += 1) {
      world.turn();
      world.rings.receive();
    }
    const stream = world.guest.dial(7, 777_777);
    stream.write(new Uint8Array(100_000).fill(7));
    world.settle();
    let got = 0;
    for (let round = 0; round < 20 && got < 100_000; round += 1) {
      got += world.host.accepted.get(7)?.[0]?.programRead().length ?? 0;
      world.settle();
    }
    must(got === 100_000, `an honest connection got ${got} bytes through`);
    world.muxer.close();
    must(
      world.host.all.every((socket) => socket.isClosed),
      'a socket was left open',
    );
    must(world.muxer.connections === 0, 'a connection was left');
  },
);

/** More than any window holds, to a program that does not read. */
function flood(world: VsockWorld): void {
  const ports = { hostPort: 80, guestPort: 3, bufAlloc: 1000 };
  world.rings.send({ op: OP.request, ...ports });
  for (let count = 0; count < 8; count += 1) {
    world.rings.send({ op: OP.data, ...ports, payload: new Uint8Array(60_000) });
    world.turn();
    world.rings.receive();
  }
}

function program(socket: MemorySocket | undefined, act: string, nowMs: number): void {
  if (socket === undefined) return;
  if (act === 'write') socket.programWrite(new Uint8Array(5000));
  else if (act === 'read') socket.programRead(7000);
  else if (act === 'end') socket.programEnd();
  else socket.programClose(nowMs);
}

const act = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('guest-write' as const),
      which: fc.nat({ max: 3 }),
      bytes: fc.nat({ max: 150_000 }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('host-write' as const),
      which: fc.nat({ max: 3 }),
      bytes: fc.nat({ max: 150_000 }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constantFrom('guest-read' as const, 'host-read' as const),
      which: fc.nat({ max: 3 }),
      bytes: fc.nat({ max: 100_000 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constantFrom('guest-dial' as const, 'host-dial' as const),
      which: fc.constant(0),
      bytes: fc.constant(0),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constantFrom('guest-end' as const, 'host-end' as const),
      which: fc.nat({ max: 3 }),
      bytes: fc.constant(0),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('turn' as const), which: fc.constant(0), bytes: fc.nat({ max: 40 }) }),
  },
);

/** Byte `index` of a stream: recognisable, so that loss and disorder show. */
const byteAt = (seed: number, index: number): number => (index * 31 + seed * 97 + (index >> 8)) & 0xff;

interface Pipe {
  sent: number;
  got: number;
  readonly seed: number;
}

class Pair {
  readonly toHost: Pipe;
  readonly toGuest: Pipe;
  stream: GuestStream | undefined;
  socket: MemorySocket | undefined;
  /** The line `OK <port>` that a host client receives first. */
  ok = '';
  readonly isClient: boolean;

  constructor(seed: number, isClient: boolean) {
    this.toHost = { sent: 0, got: 0, seed };
    this.toGuest = { sent: 0, got: 0, seed: seed + 50 };
    this.isClient = isClient;
  }

  take(pipe: Pipe, bytes: Uint8Array): void {
    let from = 0;
    if (pipe === this.toHost && this.isClient && !this.ok.endsWith('\n')) {
      while (from < bytes.length && !this.ok.endsWith('\n')) {
        this.ok += String.fromCharCode(bytes[from] ?? 0);
        from += 1;
      }
    }
    for (; from < bytes.length; from += 1) {
      must(bytes[from] === byteAt(pipe.seed, pipe.got), `byte ${pipe.got} is wrong`);
      pipe.got += 1;
    }
  }
}

function generate(pipe: Pipe, size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  for (let index = 0; index < size; index += 1) bytes[index] = byteAt(pipe.seed, pipe.sent + index);
  pipe.sent += size;
  return bytes;
}

export const vsockStreams = structured(
  'vsock-streams',
  fc.record({
    cuts,
    guestBufAlloc: fc.constantFrom(100, 4096, 65_536, 262_144),
    socketBytes: fc.constantFrom(17, 5000, 200_000),
    isLimited: fc.boolean(),
    isRacy: fc.boolean(),
    acts: fc.array(act, { maxLength: 40 }),
    isRemote: fc.boolean(),
  }),
  (input) => {
    const limit = { size: 20_000, refillPerSecond: 100_000, oneTimeBurst: 10_000 };
    const limits = input.isLimited
      ? { guestToHostBytes: limit, hostToGuestBytes: limit, connections: { size: 2, refillPerSecond: 50 } }
      : {};
    const world = new VsockWorld({ ...input.cuts, ...input, muxer: { limits } });
    world.host.listen(80);
    world.guest.listening.add(5000);
    const pairs: Pair[] = [];
    const dial = (kind: string): void => {
      const pair = new Pair(pairs.length, kind === 'host-dial');
      if (pair.isClient) {
        pair.socket = world.host.socket();
        world.muxer.addClient(pair.socket, 5000, world.nowMs);
      } else pair.stream = world.guest.dial(80, 2000 + pairs.length);
      pairs.push(pair);
    };
    /** Joins both ends of what has been accepted since. */
    const join = (): void => {
      for (const pair of pairs) {
        if (pair.stream !== undefined && pair.socket === undefined && pair.stream.state === 'open')
          pair.socket = world.host.accepted.get(80)?.shift();
        if (pair.socket !== undefined && pair.stream === undefined && pair.ok.endsWith('\n'))
          pair.stream = world.guest.accepted.find((each) => pair.ok === `OK ${each.hostPort}\n`);
      }
    };
    dial('guest-dial');
    dial('host-dial');
    for (const { kind, which, bytes } of input.acts) {
      const pair = pairs[which % pairs.length];
      if (kind === 'guest-dial' || kind === 'host-dial') dial(kind);
      else if (kind === 'turn') {
        world.turn();
        world.guest.pump(bytes);
        world.nowMs += 20;
      } else if (pair !== undefined) perform(pair, kind, bytes);
      join();
    }
    finish(world, pairs, join);
  },
);

function perform(pair: Pair, kind: string, bytes: number): void {
  const { stream, socket, toHost, toGuest } = pair;
  if (kind === 'guest-write' && stream !== undefined && !stream.wantsEnd) stream.write(generate(toHost, bytes));
  else if (kind === 'host-write' && socket !== undefined && !socket.hasProgramEnded)
    socket.programWrite(generate(toGuest, bytes));
  else if (kind === 'guest-read' && stream !== undefined) pair.take(toGuest, stream.read());
  else if (kind === 'host-read' && socket !== undefined) pair.take(toHost, socket.programRead(bytes));
  else if (kind === 'guest-end' && stream !== undefined) stream.wantsEnd = true;
  else if (kind === 'host-end') socket?.programEnd();
}

/** All pairs read to the end; then both sides close. */
function finish(world: VsockWorld, pairs: readonly Pair[], join: () => void): void {
  const isDone = (): boolean =>
    pairs.every(
      (pair) =>
        pair.stream !== undefined &&
        pair.socket !== undefined &&
        pair.toHost.got === pair.toHost.sent &&
        pair.toGuest.got === pair.toGuest.sent,
    );
  const drain = (): void => {
    for (const pair of pairs) {
      if (pair.stream !== undefined) pair.take(pair.toGuest, pair.stream.read());
      if (pair.socket !== undefined) pair.take(pair.toHost, pair.socket.programRead());
    }
    join();
  };
  for (let round = 0; round < 200_000 && !isDone(); round += 1) {
    world.turn();
    world.guest.pump();
    drain();
    world.nowMs += world.muxer.nextTimeoutMs(world.nowMs) === 0 ? 0 : 1;
  }
  must(isDone(), `stuck: ${JSON.stringify(pairs.map(({ toHost, toGuest }) => ({ toHost, toGuest })))}`);
  for (const pair of pairs) {
    pair.socket?.programEnd();
    if (pair.stream !== undefined) pair.stream.wantsEnd = true;
  }
  for (let round = 0; round < 50; round += 1) {
    world.turn();
    world.guest.pump();
    drain();
    // The end of input waits behind the byte bucket's debt, as every read does.
    world.nowMs += 20;
  }
  for (const pair of pairs) must(pair.socket?.isEnded || pair.socket?.isClosed, 'no end of input at the host');
  for (const pair of pairs)
    must(pair.stream?.hostEnded || pair.stream?.state !== 'open', 'no end of input in the guest');
  world.nowMs += 20_000;
  for (let round = 0; round < 10; round += 1) {
    world.turn();
    world.guest.pump();
  }
  must(world.muxer.connections === 0, `${world.muxer.connections} connections left`);
  must(
    world.host.all.every((socket) => socket.isClosed),
    'a socket was left open',
  );
  must(world.guest.surprises.length === 0, `surprises: ${JSON.stringify(world.guest.surprises[0])}`);
  must(world.muxer.stats(world.nowMs).protocolErrors === 0, 'an honest guest was blamed');
}
