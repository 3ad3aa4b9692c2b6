/** Streams on top of `GuestRings`: the work of a guest's kernel for its sockets, with honest credit. */
import { OP, SHUTDOWN_BOTH, SHUTDOWN_SEND } from '../../src/machine/vsock/packet.ts';
import type { GuestRings, HostPacket } from './guest-rings.ts';

const PACKET_BYTES_MAX = 64 * 1024;

export class GuestStream {
  readonly hostPort: number;
  readonly guestPort: number;
  readonly bufAlloc: number;
  state: 'connecting' | 'open' | 'reset' | 'closed' = 'connecting';
  /** Bytes that the guest program wrote and that still wait for credit. */
  readonly toSend: Uint8Array[] = [];
  /** Bytes that have arrived and that the guest program has not read. */
  readonly received: Uint8Array[] = [];
  receivedBytes = 0;
  hostEnded = false;
  endSent = false;
  wantsEnd = false;
  wantsClose = false;
  sent = 0;
  forwarded = 0;
  advertised = 0;
  peerBufAlloc = 0;
  peerFwdCount = 0;

  constructor(hostPort: number, guestPort: number, bufAlloc: number) {
    this.hostPort = hostPort;
    this.guestPort = guestPort;
    this.bufAlloc = bufAlloc;
  }

  write(bytes: Uint8Array): void {
    if (bytes.length > 0) this.toSend.push(bytes);
  }

  /** The guest program reads everything that has arrived. */
  read(): Uint8Array {
    const bytes = Buffer.concat(this.received.splice(0));
    this.receivedBytes = 0;
    this.forwarded = (this.forwarded + bytes.length) >>> 0;
    return bytes;
  }

  get credit(): number {
    // As in Linux since "vsock/virtio: cap TX credit to local buffer size".
    const window = Math.min(this.peerBufAlloc, this.bufAlloc);
    return Math.max(0, window - ((this.sent - this.peerFwdCount) >>> 0));
  }
}

export class GuestPeer {
  readonly #rings: GuestRings;
  readonly #bufAlloc: number;
  /** Streams by ports, including those that the host opened. */
  readonly streams = new Map<string, GuestStream>();
  readonly accepted: GuestStream[] = [];
  readonly listening = new Set<number>();
  /** Packets that made no sense to this guest. */
  readonly surprises: HostPacket[] = [];
  readonly #toAnswer: { op: number; hostPort: number; guestPort: number }[] = [];

  constructor(rings: GuestRings, bufAlloc: number) {
    this.#rings = rings;
    this.#bufAlloc = bufAlloc;
  }

  dial(hostPort: number, guestPort: number): GuestStream {
    const stream = new GuestStream(hostPort, guestPort, this.#bufAlloc);
    this.streams.set(`${hostPort}:${guestPort}`, stream);
    this.#toAnswer.push({ op: OP.request, hostPort, guestPort });
    return stream;
  }

  /** Handles received packets and sends what may be sent. @returns whether anything was sent */
  pump(max?: number): boolean {
    for (const packet of this.#rings.receive(max)) this.#receive(packet);
    let didSend = false;
    while (this.#toAnswer.length > 0) {
      const [packet] = this.#toAnswer;
      if (packet === undefined || !this.#send(packet.op, packet)) return didSend;
      this.#toAnswer.shift();
      didSend = true;
    }
    for (const stream of this.streams.values()) didSend = this.#sendFrom(stream) || didSend;
    return didSend;
  }

  reset(stream: GuestStream): void {
    this.#forget(stream, 'reset');
    this.#toAnswer.push({ op: OP.reset, hostPort: stream.hostPort, guestPort: stream.guestPort });
  }

  #send(
    op: number,
    ports: { readonly hostPort: number; readonly guestPort: number },
    more: { flags?: number; payload?: Uint8Array } = {},
  ): boolean {
    const stream = this.streams.get(`${ports.hostPort}:${ports.guestPort}`);
    const isSent = this.#rings.send({
      op,
      hostPort: ports.hostPort,
      guestPort: ports.guestPort,
      bufAlloc: stream?.bufAlloc ?? this.#bufAlloc,
      fwdCount: stream?.forwarded ?? 0,
      ...more,
    });
    if (isSent && stream !== undefined) stream.advertised = stream.forwarded;
    return isSent;
  }

  #sendFrom(stream: GuestStream): boolean {
    if (stream.state !== 'open') return false;
    let didSend = false;
    while (stream.toSend.length > 0 && !stream.endSent) {
      const [bytes] = stream.toSend;
      const size = Math.min(bytes?.length ?? 0, stream.credit, PACKET_BYTES_MAX);
      if (bytes === undefined || size === 0) break;
      if (!this.#send(OP.data, stream, { payload: bytes.subarray(0, size) })) return didSend;
      stream.sent = (stream.sent + size) >>> 0;
      if (size === bytes.length) stream.toSend.shift();
      else stream.toSend[0] = bytes.subarray(size);
      didSend = true;
    }
    if (stream.forwarded !== stream.advertised && this.#send(OP.creditUpdate, stream)) didSend = true;
    const isAllSent = stream.toSend.length === 0;
    if (stream.wantsEnd && isAllSent && !stream.endSent) {
      if (!this.#send(OP.shutdown, stream, { flags: SHUTDOWN_SEND })) return didSend;
      stream.endSent = true;
      didSend = true;
    }
    if (stream.wantsClose && isAllSent) {
      if (!this.#send(OP.shutdown, stream, { flags: SHUTDOWN_BOTH })) return didSend;
      stream.state = 'closed';
      didSend = true;
    }
    return didSend;
  }

  #receive(packet: HostPacket): void {
    const stream = this.streams.get(`${packet.hostPort}:${packet.guestPort}`);
    if (stream === undefined) {
      if (packet.op === OP.request && this.listening.has(packet.guestPort)) this.#accept(packet);
      else if (packet.op !== OP.reset)
        this.#toAnswer.push({ op: OP.reset, hostPort: packet.hostPort, guestPort: packet.guestPort });
      return;
    }
    stream.peerBufAlloc = packet.bufAlloc;
    stream.peerFwdCount = packet.fwdCount;
    switch (packet.op) {
      case OP.response:
        if (stream.state !== 'connecting') this.surprises.push(packet);
        stream.state = 'open';
        break;
      case OP.data:
        stream.received.push(packet.payload);
        stream.receivedBytes += packet.payload.length;
        if (stream.receivedBytes > stream.bufAlloc) this.surprises.push(packet);
        break;
      case OP.shutdown:
        stream.hostEnded = stream.hostEnded || (packet.flags & SHUTDOWN_SEND) !== 0;
        if (packet.flags === SHUTDOWN_BOTH) {
          this.#toAnswer.push({ op: OP.reset, ...stream });
          this.#forget(stream, 'closed');
        }
        break;
      case OP.reset:
        this.#forget(stream, stream.state === 'closed' ? 'closed' : 'reset');
        break;
      case OP.creditUpdate:
        break;
      default:
        this.surprises.push(packet);
    }
  }

  #accept(packet: HostPacket): void {
    const stream = new GuestStream(packet.hostPort, packet.guestPort, this.#bufAlloc);
    stream.state = 'open';
    stream.peerBufAlloc = packet.bufAlloc;
    stream.peerFwdCount = packet.fwdCount;
    this.streams.set(`${packet.hostPort}:${packet.guestPort}`, stream);
    this.accepted.push(stream);
    this.#toAnswer.push({ op: OP.response, ...stream });
  }

  #forget(stream: GuestStream, state: 'reset' | 'closed'): void {
    stream.state = state;
    this.streams.delete(`${stream.hostPort}:${stream.guestPort}`);
  }
}
