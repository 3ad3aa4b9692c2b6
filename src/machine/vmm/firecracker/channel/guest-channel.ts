/**
 * The channel of one VM, in the thread of all channels: its listeners, connections, limits and counters.
 *
 *     host program: CONNECT <port> ── tokens ── dial Firecracker ── its answer ─┬─► joined
 *     Firecracker: a guest's connection ── tokens ── dial the host's listener ──┘
 */
import type { ChannelLimits, ChannelStats } from '../../../../base/channel.ts';
import type { Clock } from '../../../../base/clock.ts';
import { describeError } from '../../../../base/errors.ts';
import type { Epoll } from '../../../../sys/epoll.ts';
import { closeFd } from '../../../../sys/fd.ts';
import { ERRNO } from '../../../../sys/libc.ts';
import { connectUnix } from '../../../../sys/socket.ts';
import type { FdLedger } from './fd-ledger.ts';
import { Listener } from './listener.ts';
import { RelayFlow } from './relay-flow.ts';
import { LINE_BYTES_MAX, lineLength } from './relay-line.ts';
import { RelaySocket, type SocketOwner, WOULD_BLOCK } from './relay-socket.ts';
import { TokenLine } from './token-line.ts';

/**
 * Maximum connections in any state; more are closed. Each has two sockets. Equal to the limit of the vsock device under
 * QEMU.
 */
const CONNECTIONS_MAX = 1_024;
/** From a client's connection to its complete line. */
const CONNECT_MS_MAX = 5_000;
/** From the line to the guest's answer. Firecracker itself times out after 2 s, unless it is compromised. */
const ANSWER_MS_MAX = 5_000;
/** How long a full backlog is retried, and how often. */
const BACKLOG_MS_MAX = 1_500;
const BACKLOG_RETRY_MS = 5;
/** Maximum bytes per turn and direction. */
export const TURN_BYTES = 256 * 1024;
/** Maximum new connections per turn. */
const TURN_ADMISSIONS = 16;

interface GuestChannelOptions {
  /** Firecracker's own socket. */
  readonly innerPath: string;
  readonly limits: ChannelLimits;
  readonly clock: Clock;
  readonly epoll: Epoll;
  readonly ledger: FdLedger;
  readonly discard: (fds: readonly number[]) => void;
  /** Called when the channel has something to do: `turn` must follow. */
  readonly wake: (channel: GuestChannel) => void;
  /** Called once, after a fault has closed the channel. */
  readonly broken: (detail: string) => void;
}

export class GuestChannel implements SocketOwner {
  readonly epoll: Epoll;
  readonly ledger: FdLedger;
  readonly #options: GuestChannelOptions;
  readonly #clock: Clock;
  readonly #toGuest: RelayFlow;
  readonly #toHost: RelayFlow;
  readonly #admission: TokenLine<() => void>;
  readonly #sockets = new Set<RelaySocket>();
  readonly #forGuest: Listener[] = [];
  #forHost: Listener | undefined;
  #isClosed = false;
  #isDisconnecting = false;
  /** Connections in any state. */
  #taken = 0;
  #opened = 0;
  #open = 0;
  #refused = 0;

  constructor(options: GuestChannelOptions) {
    const { clock, limits } = options;
    this.epoll = options.epoll;
    this.ledger = options.ledger;
    this.#options = options;
    this.#clock = clock;
    const wake = (): void => options.wake(this);
    this.#toGuest = new RelayFlow(clock, limits.hostToGuestBytes, wake);
    this.#toHost = new RelayFlow(clock, limits.guestToHostBytes, wake);
    const admit = (enter: () => void): number => {
      enter();
      return 1;
    };
    this.#admission = new TokenLine(clock, limits.connections, admit, wake);
  }

  /** @param hostPath target of the guest's connections; `null`: `fd` is for host programs */
  listen(fd: number, hostPath: string | null): void {
    const take = (made: number): void => (hostPath === null ? this.#takeClient(made) : this.#takeGuest(made, hostPath));
    const listener = new Listener(fd, this, this.#clock, take);
    // The kernel could not watch it.
    if (this.#isClosed) listener.close();
    else if (hostPath !== null) this.#forGuest.push(listener);
    else this.#forHost = listener;
  }

  /** Closes the channel to host programs and ends all connections. */
  disconnect(): void {
    this.#forHost?.close();
    this.#forHost = undefined;
    this.#isDisconnecting = true;
    for (const socket of [...this.#sockets]) socket.abandon();
    this.#isDisconnecting = false;
  }

  /** Applies to open connections too. */
  setLimits(limits: ChannelLimits): void {
    this.#toGuest.setLimit(limits.hostToGuestBytes);
    this.#toHost.setLimit(limits.guestToHostBytes);
    this.#admission.setLimit(limits.connections);
  }

  stats(): ChannelStats {
    return {
      bytesGuestToHost: this.#toHost.bytes,
      bytesHostToGuest: this.#toGuest.bytes,
      connectionsOpened: this.#opened,
      connectionsOpen: this.#open,
      connectionsRefused: this.#refused,
      throttledMsGuestToHost: this.#toHost.throttledMs,
      throttledMsHostToGuest: this.#toGuest.throttledMs,
      // Firecracker handles protocol errors itself and does not count them.
      protocolErrors: 0,
    };
  }

  /** Does a bounded part of the work that is possible now. @returns whether there is more */
  turn(): boolean {
    let hasMore = false;
    this.guard(() => {
      const admits = this.#admission.serve(TURN_ADMISSIONS, 1);
      const sends = this.#toGuest.turn(TURN_BYTES);
      hasMore = this.#toHost.turn(TURN_BYTES) || sends || admits;
    });
    return hasMore;
  }

  discard(fds: readonly number[]): void {
    if (fds.length > 0) this.#options.discard(fds);
  }

  guard(action: () => void): void {
    if (this.#isClosed) return;
    try {
      action();
    } catch (error) {
      this.#end();
      this.#options.broken(describeError(error));
    }
  }

  /** Forwards the last output of a VM that has ended. Idempotent. */
  close(): void {
    this.guard(() => this.#toHost.finish());
    this.#end();
  }

  #end(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const listener of this.#forGuest) listener.close();
    this.disconnect();
    for (const part of [this.#toGuest, this.#toHost, this.#admission]) part.close();
  }

  #takeClient(fd: number): void {
    const client = this.#accept(fd);
    if (client === null) return;
    this.#readLine(client, CONNECT_MS_MAX, (line) => {
      if (line === null) this.#refuse(client);
      else this.#admit(client, () => this.#askGuest(client, line));
    });
  }

  #askGuest(client: RelaySocket, line: Uint8Array): void {
    this.#dial(this.#options.innerPath, client, (guest) => {
      // In one write: Firecracker does not accept a line in parts.
      if (guest === null || !guest.sendLine(line)) {
        this.#refuse(client, guest);
        return;
      }
      // A client that hangs up is not noticed, since its socket is not read yet.
      this.#readLine(guest, ANSWER_MS_MAX, (answer) => {
        if (answer === null || !client.sendLine(answer)) this.#refuse(client, guest);
        else this.#join(client, guest);
      });
    });
  }

  #takeGuest(fd: number, hostPath: string): void {
    const guest = this.#accept(fd);
    if (guest === null) return;
    this.#admit(guest, () =>
      this.#dial(hostPath, guest, (host) => {
        if (host === null) this.#refuse(guest);
        else this.#join(host, guest);
      }),
    );
  }

  #admit(socket: RelaySocket, enter: () => void): void {
    this.#admission.add(enter);
    socket.onClose.push(() => this.#admission.forget(enter));
  }

  /** Reads exactly the line. @param done called once, unless the socket is closed; `null` if no line came in time */
  #readLine(socket: RelaySocket, msMax: number, done: (line: Uint8Array | null) => void): void {
    const finish = (line: Uint8Array | null): void => {
      cancel();
      socket.onInput = () => undefined;
      done(line);
    };
    const cancel = this.#clock.after(msMax, () => this.guard(() => finish(null)));
    socket.onClose.push(cancel);
    socket.onInput = () => {
      const there = socket.peek(LINE_BYTES_MAX);
      if (there === WOULD_BLOCK) return;
      const head = socket.head(Math.max(0, there));
      const length = lineLength(head);
      if (length === undefined && there > 0 && !socket.isEnding) return;
      const isLine = typeof length === 'number' && socket.take(length);
      finish(isLine ? head.subarray(0, length) : null);
    };
    socket.listen();
  }

  /** Connects on behalf of `other`. @param done called once, unless `other` is closed; `null` if refused */
  #dial(path: string, other: RelaySocket, done: (socket: RelaySocket | null) => void): void {
    const deadlineMs = this.#clock.now() + BACKLOG_MS_MAX;
    const attempt = (): void => {
      const fd = connectUnix(path);
      if (fd === -ERRNO.EAGAIN && this.#clock.now() < deadlineMs) {
        other.onClose.push(this.#clock.after(BACKLOG_RETRY_MS, () => this.guard(attempt)));
        return;
      }
      const socket = fd < 0 ? null : this.#hold(fd);
      if (socket !== null) this.#couple(socket, other);
      done(socket);
    };
    attempt();
  }

  /** Couples two sockets: one closes with the other. */
  #couple(one: RelaySocket, other: RelaySocket): void {
    const follow = (socket: RelaySocket): void => {
      if (this.#isDisconnecting) socket.abandon();
      else socket.close();
    };
    one.onClose.push(() => follow(other));
    other.onClose.push(() => follow(one));
  }

  #join(host: RelaySocket, guest: RelaySocket): void {
    this.#opened += 1;
    this.#open += 1;
    let left = 2;
    const over = (): void => {
      left -= 1;
      if (left === 0) host.close();
    };
    host.onClose.push(() => {
      this.#open -= 1;
    });
    this.#toGuest.join(host, guest, over);
    this.#toHost.join(guest, host, over);
    for (const socket of [host, guest]) socket.listen();
  }

  #refuse(...sockets: (RelaySocket | null)[]): void {
    this.#refused += 1;
    for (const socket of sockets) {
      socket?.endRead();
      socket?.close();
    }
  }

  /** @returns `null` if there are too many connections */
  #accept(fd: number): RelaySocket | null {
    if (this.#taken >= CONNECTIONS_MAX) {
      closeFd(fd);
      this.#refused += 1;
      return null;
    }
    const socket = this.#hold(fd);
    if (socket === null) {
      this.#refused += 1;
      return null;
    }
    this.#taken += 1;
    socket.onClose.push(() => {
      this.#taken -= 1;
    });
    return socket;
  }

  /** @returns `null` if the kernel can't watch it */
  #hold(fd: number): RelaySocket | null {
    if (!this.ledger.add(fd)) {
      closeFd(fd);
      return null;
    }
    const socket = new RelaySocket(fd, this);
    if (socket.isClosed) return null;
    this.#sockets.add(socket);
    socket.onClose.push(() => this.#sockets.delete(socket));
    return socket;
  }
}
