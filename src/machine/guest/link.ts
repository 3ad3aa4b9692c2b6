/**
 * The host end of the guest agent (`guest/`, protocol: `spec/guest-protocol.md`).
 *
 *     listenForGuest ── <channel>_1024 ◄── agent dials: hello, welcome, ready; then its events
 *          └─ ready() ─► Guest ── <channel> ──► one connection per operation (exec, files, tcp, …)
 *       connectGuest ──► Guest ── any stream ──► the same, when another process holds the control connection
 *
 * Files: `framing` lines and frames · `protocol` messages · `hello`, `session` the two kinds of connection
 * without I/O · `dial`, `operation` one connection (io) · `process`, `files`, `connected-guest` the objects
 * that callers hold · `remote` a guest without the link · `link` (io) this listener. Everything from a guest
 * is hostile: bounded, checked, fuzzed.
 *
 * Primer. A guest is *ready* only after it has confirmed the identity that the host gave it: sandbox id,
 * host name, clock, fresh entropy, environment, limits. If a step fails, `ready` rejects and the caller
 * destroys the VM (fail closed). Any process in the guest can dial the same port: while one connection is
 * linked, others are refused, and before the agent's hello no user code runs.
 *
 * A sandbox is saved without its vsock device: `settle` (programs outlive their connections), `suspend`
 * (their loss is not a failure), unplug. After the next plug the agent dials again, and `ready` gives the
 * next Guest, with the same programs.
 */

import { rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import type { Clock } from '../../base/clock.ts';
import { dropInput } from '../../base/drop-input.ts';
import { ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { orAborted } from '../../base/time-limit.ts';
import { ConnectedGuest } from './connected-guest.ts';
import { dialChannel } from './dial.ts';
import type { GuestError } from './errors.ts';
import type { Guest } from './guest.ts';
import { HelloSession, type LinkEvent } from './hello.ts';
import type { GuestIdentity } from './identity.ts';
import { GUEST_LIMITS, PORTS } from './limits.ts';
import { Pace } from './pace.ts';
import { guestError, type Hello, wallNanoseconds } from './protocol.ts';

export type * from './guest.ts';

export interface ListenOptions {
  /** The channel's unix socket; the listener is at `<channelPath>_1024`. */
  readonly channelPath: string;
  readonly identity: GuestIdentity;
  /** From this call to the guest's confirmation, milliseconds. */
  readonly helloTimeoutMs: number;
  readonly clock: Clock;
  /** Returns 64 fresh bytes from the host's random number generator. */
  readonly entropy: () => Uint8Array;
  readonly log: Log;
}

export interface GuestListener {
  /**
   * Resolves when the guest has confirmed. After the loss of its connection, the next call waits for the next hello, at
   * most `helloTimeoutMs` from that call.
   * @throws GuestError `hello_timeout`, `hello_refused`, `protocol_error`, `cancelled`
   */
  ready(signal?: AbortSignal): Promise<Guest>;
  /** Sets the identity for the next hello: after an `update`, or for a fork. */
  setIdentity(identity: GuestIdentity): void;
  /** Stops listening, closes the guest and removes the socket. Idempotent. */
  close(): Promise<void>;
}

/** Starts listening. Call this before the VM starts: without a listener the guest's first dial is refused. */
export async function listenForGuest(options: ListenOptions): Promise<GuestListener> {
  const path = `${options.channelPath}_${PORTS.hello}`;
  rmSync(path, { force: true });
  const server = createServer({ pauseOnConnect: false });
  const listener = new LinkListener(options, server);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => {
      server.off('error', reject);
      resolve();
    });
  });
  return listener;
}

class LinkListener implements GuestListener {
  readonly #options: ListenOptions;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  /** Connections that get the answer that another agent is linked. */
  readonly #refused = new Set<Socket>();
  #identity: GuestIdentity;
  #next = pendingGuest();
  /** Undefined if `ready` has not been called for the next guest. */
  #stopTimer: (() => void) | undefined;
  #waiting = true;
  /** The connection in its hello, or linked. */
  #active: Socket | undefined;
  #closing: Promise<void> | undefined;

  constructor(options: ListenOptions, server: Server) {
    this.#options = options;
    this.#identity = options.identity;
    this.#server = server;
    this.#stopTimer = this.#limit();
    server.on('connection', (socket) => this.#accept(socket));
    server.on('error', (error) => options.log.error('guest listener', { error: error.message }));
  }

  setIdentity(identity: GuestIdentity): void {
    this.#identity = identity;
  }

  async ready(signal?: AbortSignal): Promise<Guest> {
    if (this.#waiting) this.#stopTimer ??= this.#limit();
    if (signal === undefined) return await this.#next.promise;
    return await orAborted(this.#next.promise, signal, ({ reason }) =>
      guestError('cancelled', 'waiting for the guest: cancelled', reason),
    );
  }

  close(): Promise<void> {
    this.#closing ??= new Promise((resolve) => {
      this.#fail(guestError('cancelled', 'waiting for the guest: the listener was closed'));
      this.#server.close(() => resolve());
      for (const socket of this.#sockets) socket.destroy();
    });
    return this.#closing;
  }

  #limit(): () => void {
    const { clock, helloTimeoutMs } = this.#options;
    return clock.after(helloTimeoutMs, () =>
      this.#fail(guestError('hello_timeout', `the guest sent no hello within ${helloTimeoutMs} ms`)),
    );
  }

  #fail(error: GuestError): void {
    this.#stopTimer?.();
    if (!this.#waiting) return;
    this.#waiting = false;
    this.#next.reject(error);
  }

  #accept(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on('error', (error) => ignore(error, 'the close that follows reports it'));
    socket.on('close', () => this.#sockets.delete(socket));
    if (this.#active !== undefined || !this.#waiting) {
      this.#refuse(socket);
      return;
    }
    this.#active = socket;
    const options = { ...this.#options, identity: this.#identity };
    new LinkConnection(options, socket, {
      onReady: (guest) => {
        this.#stopTimer?.();
        this.#waiting = false;
        this.#next.resolve(guest);
      },
      onFailed: (error) => this.#fail(error),
      onClosed: (wasReady) => {
        this.#active = undefined;
        if (wasReady && this.#closing === undefined) this.#await();
      },
    });
  }

  /** Lets the other end read the reason, but not send on: programs of a guest can dial, too. */
  #refuse(socket: Socket): void {
    if (this.#refused.size >= GUEST_LIMITS.busyConnectionsMax) {
      socket.destroy();
      return;
    }
    this.#refused.add(socket);
    socket.once('close', () => this.#refused.delete(socket));
    socket.end(BUSY);
    dropInput(socket, { clock: this.#options.clock, limits: BUSY_LIMITS }, () => socket.destroy());
  }

  /** Waits for the next hello, which may take long: the sandbox may be paused. */
  #await(): void {
    this.#next = pendingGuest();
    this.#waiting = true;
    this.#stopTimer = undefined;
  }
}

interface LinkCallbacks {
  onReady(guest: ConnectedGuest): void;
  onFailed(error: GuestError): void;
  onClosed(wasReady: boolean): void;
}

class LinkConnection {
  readonly #options: ListenOptions;
  readonly #socket: Socket;
  readonly #acceptedMs: number;
  readonly #callbacks: LinkCallbacks;
  readonly #session: HelloSession;
  readonly #pace: Pace;
  #guest: ConnectedGuest | undefined;
  #hello: { readonly message: Hello; readonly atMs: number } | undefined;
  #stopTimer: () => void;
  #isClosed = false;

  constructor(options: ListenOptions, socket: Socket, callbacks: LinkCallbacks) {
    this.#options = options;
    this.#socket = socket;
    this.#acceptedMs = options.clock.now();
    this.#pace = new Pace(options.clock, GUEST_LIMITS.eventsPerSecondMax, socket);
    this.#callbacks = callbacks;
    this.#session = new HelloSession(options.identity, () => ({
      wallNs: wallNanoseconds(options.clock.wall()),
      entropy: options.entropy(),
    }));
    this.#stopTimer = options.clock.after(GUEST_LIMITS.helloStepMsMax, () => socket.destroy());
    socket.on('data', (data) => this.#receive(data));
    socket.on('close', () => this.#close());
  }

  #receive(data: Buffer): void {
    for (const event of this.#session.receive(data)) this.#take(event);
    const output = this.#session.takeOutput();
    if (output !== '') this.#socket.write(output);
    if (this.#session.state === 'over') this.#socket.end();
  }

  #take(event: LinkEvent): void {
    switch (event.type) {
      case 'hello':
        this.#hello = { message: event.hello, atMs: this.#options.clock.now() };
        break;
      case 'ready':
        this.#ready(event.problems);
        break;
      case 'event':
        this.#pace.take();
        this.#guest?.emit(event.event);
        break;
      case 'refused':
        this.#callbacks.onFailed(guestError('hello_refused', `the ${event.by} refused the hello: ${event.message}`));
        break;
      case 'broken':
        this.#callbacks.onFailed(guestError('protocol_error', `the guest's ${event.reason}`));
        this.#guest?.end({ reason: 'protocol_error', detail: event.reason });
    }
  }

  #ready(problems: readonly string[]): void {
    const { channelPath, clock, log } = this.#options;
    const hello = this.#hello;
    if (hello === undefined) return;
    this.#stopTimer();
    for (const problem of problems) log.warn('guest agent', { problem });
    const { agent, python, timings, overlay, cgroup } = hello.message;
    const nowMs = clock.now();
    this.#guest = new ConnectedGuest({
      dial: dialChannel(channelPath),
      clock,
      info: {
        agentVersion: agent,
        pythonVersion: python,
        ...timings,
        helloMs: nowMs - hello.atMs,
        readyMs: nowMs - this.#acceptedMs,
        overlay,
        cgroup,
        problems,
      },
      drop: () => this.#close(),
    });
    this.#callbacks.onReady(this.#guest);
  }

  /** Takes effect immediately, also when the host closes: a later `ready` waits for the next guest. */
  #close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#socket.destroy();
    this.#stopTimer();
    this.#guest?.end({ reason: 'lost', detail: 'the control connection ended' });
    this.#callbacks.onClosed(this.#guest !== undefined);
  }
}

function pendingGuest(): PromiseWithResolvers<Guest> {
  const pending = Promise.withResolvers<Guest>();
  pending.promise.catch((error: unknown) => ignore(error, 'the caller of ready gets it'));
  return pending;
}

const BUSY_LIMITS = { lingerBytesMax: GUEST_LIMITS.busyBytesMax, lingerTimeoutMs: GUEST_LIMITS.busyMsMax };

const BUSY = `${JSON.stringify({
  type: 'refused',
  code: 'busy',
  message: 'the agent of this sandbox is already connected',
})}\n`;
