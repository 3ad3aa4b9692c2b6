/**
 * One connection: its states, and the credit that bounds what each side may have in flight.
 *
 * A direction has "ended" when nothing new will be sent in it; what was sent before still arrives.
 */
import type { HostSocket } from './host-socket.ts';
import { SHUTDOWN_RECEIVE } from './packet.ts';
import { type ChunkPool, TxBuffer } from './tx-buffer.ts';

export type ConnectionState =
  /** Waits for a token of the connection bucket, or for room in a host listener's backlog. */
  | 'delayed'
  /** A host client asked; REQUEST is queued or sent, the guest has not answered. */
  | 'requested'
  /** Bytes flow both ways. */
  | 'open'
  /** The guest sends no more; the host may. */
  | 'guest-ended'
  /** The host sends no more, and the guest knows; the guest may. */
  | 'host-ended'
  /** Neither side sends; the guest knows and must confirm with RST. */
  | 'closing'
  /** The guest has closed the connection and may reuse the ports; held bytes still flow to the host. */
  | 'draining'
  | 'gone';

export type ConnectionEvent =
  /** A delayed connection of a guest has its host socket. */
  | 'admit-guest'
  /** A delayed connection of a host client may ask the guest. */
  | 'admit-host'
  /** RESPONSE from the guest. */
  | 'response'
  /** SHUTDOWN(send) from the guest. */
  | 'guest-end-send'
  /** SHUTDOWN(send and receive), or RST, from the guest: it has forgotten the connection. */
  | 'guest-end-both'
  /** The host socket is at its end of input. */
  | 'host-end-send'
  /** The host socket is closed in both directions, or broken. */
  | 'host-gone'
  /** A timeout, a protocol violation by the guest, or a refusal: the guest gets RST. */
  | 'fail'
  /** No held byte is left. */
  | 'drained';

/** The only table of legal transitions. A pair that is missing is illegal and changes nothing. */
export const TRANSITIONS: Readonly<Record<ConnectionState, Partial<Record<ConnectionEvent, ConnectionState>>>> = {
  delayed: {
    'admit-guest': 'open',
    'admit-host': 'requested',
    'guest-end-both': 'gone',
    'host-gone': 'gone',
    fail: 'gone',
  },
  requested: { response: 'open', 'guest-end-both': 'gone', 'host-gone': 'gone', fail: 'gone' },
  open: {
    'guest-end-send': 'guest-ended',
    'guest-end-both': 'draining',
    'host-end-send': 'host-ended',
    'host-gone': 'closing',
    fail: 'gone',
  },
  'guest-ended': {
    'guest-end-send': 'guest-ended',
    'guest-end-both': 'draining',
    'host-end-send': 'closing',
    'host-gone': 'closing',
    fail: 'gone',
  },
  'host-ended': { 'guest-end-send': 'closing', 'guest-end-both': 'draining', 'host-gone': 'closing', fail: 'gone' },
  closing: { 'guest-end-send': 'closing', 'guest-end-both': 'draining', 'host-gone': 'closing', fail: 'gone' },
  draining: { drained: 'gone', 'host-gone': 'gone', fail: 'gone' },
  gone: {},
};

/** Packets that a connection owes to the guest, as bits; each kind at most once. */
export const OWES = { request: 1, response: 2, shutdown: 4, credit: 8 } as const;

export class Connection {
  readonly hostPort: number;
  readonly guestPort: number;
  /** True if a host client requested it. */
  readonly fromHost: boolean;
  /** Our receive window, bytes: what the guest may have sent and we have not yet passed on. */
  readonly bufAlloc: number;
  readonly held: TxBuffer;
  #state: ConnectionState = 'delayed';

  /** Undefined until the host side exists, and after it is given up. */
  socket: HostSocket<Connection> | undefined;
  /** Deadline of the current state, milliseconds; Infinity if it may last. */
  deadlineMs = Number.POSITIVE_INFINITY;
  /** Bits of `OWES`. */
  owes = 0;
  /** Flags of the SHUTDOWN that is owed or was sent; flags are never cleared. */
  shutdownFlags = 0;
  /** Flags of the guest's SHUTDOWNs so far. */
  guestShutdownFlags = 0;
  /** Bytes that the next read of the host socket will try to fill: follows the last read. */
  readHint = READ_HINT_FIRST;
  /** The host socket did not take all bytes and is watched for room. */
  isBlocked = false;
  /** The host socket takes nothing more: bytes for it are dropped. */
  isHostDeaf = false;
  /** The end of the host's input comes after the bytes that wait in the socket. */
  isHostInputEnding = false;
  /** Both directions of the host socket are closed at the other end. */
  isHostHungUp = false;

  /** Bytes sent to the guest, modulo 2³². */
  #sentCount = 0;
  #peerBufAlloc = 0;
  #peerFwdCount = 0;
  /** Bytes passed on to the host, modulo 2³²: the `fwd_cnt` of our headers. */
  fwdCount = 0;
  #advertisedFwdCount = 0;

  constructor(hostPort: number, guestPort: number, fromHost: boolean, bufAlloc: number, pool: ChunkPool) {
    this.hostPort = hostPort;
    this.guestPort = guestPort;
    this.fromHost = fromHost;
    this.bufAlloc = bufAlloc;
    this.held = new TxBuffer(bufAlloc, pool);
  }

  get state(): ConnectionState {
    return this.#state;
  }

  /** Makes a transition. @returns false, with nothing changed, if the table has no such pair */
  transition(event: ConnectionEvent): boolean {
    const next = TRANSITIONS[this.#state][event];
    if (next === undefined) return false;
    this.#state = next;
    return true;
  }

  /** The guest may send: its direction has not ended. */
  get acceptsGuestData(): boolean {
    return this.#state === 'open' || this.#state === 'host-ended';
  }

  /** The host socket is read: its direction has not ended. */
  get sendsHostData(): boolean {
    return (
      (this.#state === 'open' || this.#state === 'guest-ended') && (this.guestShutdownFlags & SHUTDOWN_RECEIVE) === 0
    );
  }

  /** Bytes that may be sent to the guest now. A window that shrank below the bytes in flight gives 0. */
  get credit(): number {
    const underWay = (this.#sentCount - this.#peerFwdCount) >>> 0;
    return underWay >= this.#peerBufAlloc ? 0 : this.#peerBufAlloc - underWay;
  }

  noteSent(bytes: number): void {
    this.#sentCount = (this.#sentCount + bytes) >>> 0;
  }

  /**
   * Applies the credit fields of a guest's header. A count that is older than the last one (Linux may send two headers
   * in the wrong order) or that claims more than was sent changes nothing.
   */
  updateCredit(bufAlloc: number, fwdCount: number): void {
    this.#peerBufAlloc = bufAlloc;
    const forward = (fwdCount - this.#peerFwdCount) >>> 0;
    const underWay = (this.#sentCount - this.#peerFwdCount) >>> 0;
    if (forward <= underWay) this.#peerFwdCount = fwdCount;
  }

  /** Whether `bytes` more from the guest fit into our window, while `pending` are being passed on. */
  hasRoomFor(bytes: number, pending: number): boolean {
    return bytes + pending + this.held.length <= this.bufAlloc;
  }

  /**
   * Notes that the host took `bytes`.
   * @returns true if the guest needs an update: half of the window is free without its knowledge. The window is the
   * smaller one of ours and the guest's own: Linux sends no more ahead than it would receive ("vsock/virtio: cap TX
   * credit to local buffer size"), so it may stop long before ours is used up.
   */
  noteForwarded(bytes: number): boolean {
    this.fwdCount = (this.fwdCount + bytes) >>> 0;
    const window = Math.min(this.bufAlloc, this.#peerBufAlloc);
    return ((this.fwdCount - this.#advertisedFwdCount) >>> 0) * 2 >= window;
  }

  /** Every header carries the count; call it when one is written. */
  noteAdvertised(): void {
    this.#advertisedFwdCount = this.fwdCount;
  }
}

/** One small message; doubles while reads come back full. */
export const READ_HINT_FIRST = 2 * 1024;
