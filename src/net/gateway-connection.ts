/**
 * One connection of a guest through the gateway (io).
 *
 *     reading ──► dialling ──► open ──► closing ──► closed    the upstream has ended: the rest is delivered
 *        │            │          │ a later request is refused
 *        │            │          └─► draining ─┐   the answers to earlier ones first
 *        └────────────┴────────► answering ◄───┘   says why, then closes
 *
 * A guest that is not read from is held back by TCP; nothing is kept here beyond one head and one chunk.
 */
import type { Socket } from 'node:net';
import type { Clock } from '../base/clock.ts';
import { ignore } from '../base/ignore.ts';
import { type ClientHello, ClientHelloReader } from './client-hello.ts';
import { httpRefusal, type RefusalStatus, tlsRefusal } from './gateway-answer.ts';
import {
  type Destination,
  GatewayJudge,
  type GatewayPolicy,
  type RefusalReason,
} from './gateway-judge.ts';
import { SecondHello, ServerHelloStart } from './hello-retry.ts';
import type { RequestHead } from './http-head.ts';
import { type HttpPiece, HttpRequestReader } from './http-requests.ts';
import { HttpResponses } from './http-responses.ts';
import type { Pins } from './pins.ts';

export interface GatewayBudget {
  /** No: the connection is closed at once. Every yes is followed by one `close`. */
  open(): boolean;
  close(): void;
  /** `sent` by the guest, `received` by it. No: the connection ends and these bytes are not passed on. */
  spend(direction: 'sent' | 'received', bytes: number): boolean;
}

export interface GatewaySandbox {
  readonly id: string;
  /** As it is now. */
  readonly policy: () => GatewayPolicy;
  readonly pins: Pins;
  readonly budget?: GatewayBudget;
}

export interface GatewayTimeouts {
  /** From the connection to its judged hello or head; from the first byte of a later head to its end. */
  readonly headMs: number;
  readonly connectMs: number;
  /** No byte moved in either direction. */
  readonly idleMs: number;
  /** For a refused guest to read why. */
  readonly lingerMs: number;
}

export type EndReason =
  | RefusalReason
  | 'byte_budget'
  | 'head_timeout'
  | 'idle_timeout'
  | 'unreachable'
  | 'ended_early';

export type GatewayProtocol = 'tls' | 'http';

export interface ConnectionContext {
  readonly clock: Clock;
  readonly timeouts: GatewayTimeouts;
  /** A socket that connects to the destination, with `allowHalfOpen`. */
  readonly dial: (destination: Destination) => Socket;
  readonly onAllowed: (protocol: GatewayProtocol, name: string | undefined) => void;
  readonly onRefused: (reason: EndReason, why: string, name: string | undefined) => void;
  readonly onBytes: (direction: 'sent' | 'received', bytes: number) => void;
}

interface Refused {
  readonly reason: EndReason;
  readonly why: string;
  readonly name: string | undefined;
}

type Phase = 'reading' | 'dialling' | 'open' | 'closing' | 'draining' | 'answering' | 'closed';
const DEAF: ReadonlySet<Phase> = new Set(['closing', 'draining', 'answering', 'closed']);

export class GatewayConnection {
  readonly #context: ConnectionContext;
  readonly #guest: Socket;
  readonly #budget: GatewayBudget | undefined;
  readonly #destination: Destination;
  readonly #judge: GatewayJudge;
  #phase: Phase = 'reading';
  #protocol: GatewayProtocol | undefined;
  #upstream: Socket | undefined;
  /** Judged, and waits for the upstream to connect. */
  #queue: Uint8Array[] = [];
  /** Not judged yet: the hello under way, or what came behind it. */
  #held: Buffer[] = [];
  readonly #helloReader = new ClientHelloReader();
  #hello: ClientHello | undefined;
  /** Until it is known whether the server asks for a second hello. */
  #serverStart: ServerHelloStart | undefined;
  #secondHello: SecondHello | undefined;
  readonly #requests = new HttpRequestReader();
  #lastHead: RequestHead | undefined;
  readonly #responses = new HttpResponses();
  #hasReceived = false;
  #cancelHead: (() => void) | undefined;
  #cancelIdle: (() => void) | undefined;
  #cancelLinger: (() => void) | undefined;
  #movedAtMs: number;
  #refusal: Uint8Array | undefined;
  #isGuestEnded = false;
  /** A later request was refused while the upstream was still being called. */
  #isLast = false;

  /** @param protocol undefined: the first byte tells */
  constructor(
    context: ConnectionContext,
    guest: Socket,
    sandbox: GatewaySandbox,
    destination: Destination,
    protocol: GatewayProtocol | undefined,
  ) {
    this.#context = context;
    this.#guest = guest;
    this.#budget = sandbox.budget;
    this.#destination = destination;
    this.#protocol = protocol;
    this.#judge = new GatewayJudge(sandbox.policy, sandbox.pins, destination);
    this.#movedAtMs = context.clock.now();
    this.#armHead();
    this.#armIdle(context.timeouts.idleMs);
    guest.on('data', (bytes) => this.#onGuestData(bytes));
    guest.on('end', () => this.#onGuestEnd());
    guest.on('error', (error) => ignore(error, 'a guest that broke its connection'));
    guest.once('close', () => this.#onClosed());
  }

  /** At once, without a word. */
  destroy(): void {
    this.#guest.resetAndDestroy();
  }

  /** After a change of the policy: ends at once unless what it began with would be let through now. */
  judgeAnew(): void {
    const head = this.#lastHead;
    const judged =
      this.#hello === undefined ? head && this.#judge.head(head) : this.#judge.hello(this.#hello);
    if (judged?.ok === false) this.destroy();
  }

  #onGuestData(bytes: Buffer): void {
    if (DEAF.has(this.#phase)) return;
    this.#movedAtMs = this.#context.clock.now();
    if (!this.#spend('sent', bytes.length)) return;
    this.#protocol ??= bytes[0] === 22 ? 'tls' : 'http';
    if (this.#protocol === 'http') this.#onHttp(bytes);
    else if (this.#hello === undefined) this.#onHello(bytes);
    else this.#onTls(bytes);
  }

  // TLS

  #onHello(bytes: Buffer): void {
    this.#held.push(bytes);
    const state = this.#helloReader.push(bytes);
    if (state.kind === 'more') return;
    if (state.kind === 'refused') {
      this.#refuse(`tls_${state.reason}`, `no ClientHello that can be judged: ${state.reason}`);
      return;
    }
    const judged = this.#judge.hello(state.hello);
    if (!judged.ok) {
      this.#refuse(judged.reason, judged.why, judged.name);
      return;
    }
    const all = Buffer.concat(this.#held);
    const { wireBytes } = this.#helloReader;
    this.#held = wireBytes < all.length ? [all.subarray(wireBytes)] : [];
    this.#hello = state.hello;
    this.#serverStart = new ServerHelloStart();
    this.#disarmHead();
    this.#context.onAllowed('tls', judged.name);
    this.#forward(all.subarray(0, wireBytes));
  }

  #onTls(bytes: Buffer): void {
    if (this.#serverStart === undefined && this.#secondHello === undefined) {
      this.#forward(bytes);
      return;
    }
    this.#held.push(bytes);
    if (this.#serverStart === undefined) this.#pushSecondHello(bytes);
    else this.#guest.pause();
  }

  #onServerStart(bytes: Buffer): void {
    const start = this.#serverStart?.push(bytes);
    if (start === undefined || start === 'more') return;
    this.#serverStart = undefined;
    if (start === 'other' || this.#hello === undefined) {
      this.#release();
      return;
    }
    this.#secondHello = new SecondHello(this.#hello);
    this.#armHead();
    for (const held of [...this.#held]) this.#pushSecondHello(held);
    if (this.#phase !== 'open') return;
    if (this.#isGuestEnded) this.#onGuestEnd();
    else this.#guest.resume();
  }

  #pushSecondHello(bytes: Buffer): void {
    const state = this.#secondHello?.push(bytes);
    if (state === undefined || state.kind === 'more') return;
    this.#secondHello = undefined;
    this.#disarmHead();
    if (state.kind === 'same') this.#release();
    else
      this.#refuse('second_hello', `the second ClientHello is not like the first: ${state.reason}`);
  }

  #release(): void {
    const held = this.#held;
    this.#held = [];
    this.#guest.resume();
    for (const bytes of held) this.#forward(bytes);
    this.#passEnd();
  }

  // HTTP

  #onHttp(bytes: Buffer): void {
    const passed: Uint8Array[] = [];
    for (const piece of this.#requests.push(bytes)) {
      if (piece.kind === 'end') continue;
      const refused = piece.kind === 'body' ? undefined : this.#judgePiece(piece);
      if (refused !== undefined) {
        // What was judged before it goes its way.
        if (passed.length > 0) this.#forward(Buffer.concat(passed));
        this.#refuse(refused.reason, refused.why, refused.name, refused.status);
        return;
      }
      if (piece.kind === 'body') passed.push(piece.bytes);
      else if (piece.kind === 'head') passed.push(Buffer.from(piece.head.forward, 'latin1'));
    }
    if (passed.length > 0) this.#forward(Buffer.concat(passed));
    const isHeadDue = this.#requests.isInHead || this.#upstream === undefined;
    if (isHeadDue) this.#armHead();
    else this.#disarmHead();
  }

  #judgePiece(
    piece: Extract<HttpPiece, { kind: 'head' | 'refused' }>,
  ): (Refused & { status: RefusalStatus }) | undefined {
    if (piece.kind === 'refused') {
      const why = `no HTTP/1.1 request that can be judged: ${piece.reason}`;
      return { reason: `http_${piece.reason}`, why, name: undefined, status: 400 };
    }
    this.#lastHead = piece.head;
    const judged = this.#judge.head(piece.head);
    if (!judged.ok)
      return { reason: judged.reason, why: judged.why, name: judged.name, status: 403 };
    this.#context.onAllowed('http', judged.name);
    this.#responses.expect(piece.head.method);
    return undefined;
  }

  // Both

  /** To the upstream, which is called at the first byte. */
  #forward(bytes: Uint8Array): void {
    if (this.#phase === 'reading') this.#dial();
    if (this.#phase === 'dialling') {
      this.#queue.push(bytes);
      return;
    }
    if (this.#phase !== 'open' || this.#upstream === undefined) return;
    if (!this.#upstream.write(bytes)) this.#guest.pause();
  }

  #dial(): void {
    const { clock, dial, timeouts } = this.#context;
    this.#phase = 'dialling';
    this.#guest.pause();
    const upstream = dial(this.#destination);
    this.#upstream = upstream;
    const cancel = clock.after(timeouts.connectMs, () => upstream.destroy(new Error('timeout')));
    upstream.once('connect', () => {
      cancel();
      this.#onConnected(upstream);
    });
    upstream.on('data', (bytes) => this.#onUpstreamData(bytes));
    upstream.on('end', () => this.#onUpstreamEnd());
    upstream.on('drain', () => this.#resumeGuest());
    upstream.on('error', (error) => ignore(error, 'an upstream that broke its connection'));
    upstream.once('close', (hadError) => {
      cancel();
      this.#onUpstreamClosed(hadError && !upstream.readableEnded);
    });
    this.#guest.on('drain', () => {
      this.#movedAtMs = clock.now();
      upstream.resume();
    });
  }

  #onConnected(upstream: Socket): void {
    if (this.#phase !== 'dialling') {
      upstream.destroy();
      return;
    }
    this.#movedAtMs = this.#context.clock.now();
    this.#phase = 'open';
    const queue = this.#queue;
    this.#queue = [];
    let isRoomy = true;
    for (const bytes of queue) isRoomy = upstream.write(bytes);
    if (this.#isLast) {
      this.#phase = 'draining';
      return;
    }
    if (isRoomy) this.#resumeGuest();
    this.#passEnd();
  }

  #resumeGuest(): void {
    // What a TLS guest has to say waits until the server's first words are known.
    if (this.#phase === 'open' && this.#serverStart === undefined) this.#guest.resume();
  }

  #onUpstreamData(bytes: Buffer): void {
    if (this.#phase !== 'open' && this.#phase !== 'draining') return;
    this.#movedAtMs = this.#context.clock.now();
    if (!this.#spend('received', bytes.length)) return;
    this.#hasReceived = true;
    if (!this.#guest.write(bytes)) this.#upstream?.pause();
    this.#onServerStart(bytes);
    if (this.#protocol !== 'http') return;
    this.#responses.push(bytes);
    if (this.#phase === 'draining' && this.#responses.isComplete) this.#answer();
  }

  #onUpstreamEnd(): void {
    if (this.#phase === 'draining') {
      this.#cutShort();
      return;
    }
    if (this.#phase !== 'open') return;
    this.#guest.end();
    // It will not ask for a second hello any more; the guest's end has to be seen.
    if (this.#serverStart === undefined) return;
    this.#serverStart = undefined;
    this.#held = [];
    this.#guest.resume();
    this.#passEnd();
  }

  #onUpstreamClosed(isCut: boolean): void {
    if (this.#phase === 'dialling') {
      const { address, port } = this.#destination;
      const why = `${address} port ${port} does not take connections`;
      this.#refuse('unreachable', why, undefined, 502);
    } else if (this.#phase === 'open' && isCut) this.destroy();
    else if (this.#phase === 'open') this.#close();
    else if (this.#phase === 'draining') this.#cutShort();
  }

  /** The upstream is gone: what the guest is still to get is sent, however slowly it reads. */
  #close(): void {
    this.#phase = 'closing';
    this.#guest.resume();
    if (this.#guest.writableFinished) this.#linger();
    else this.#guest.end(() => this.#linger());
  }

  #onGuestEnd(): void {
    this.#isGuestEnded = true;
    if (this.#phase === 'reading')
      this.#refuse('ended_early', 'the guest closed before it said where to');
    else if (this.#secondHello !== undefined)
      this.#refuse('ended_early', 'the guest closed inside its second hello');
    else this.#passEnd();
  }

  /** The guest's end comes after its last byte, which may still be waiting to be judged. */
  #passEnd(): void {
    const isWaiting = this.#serverStart !== undefined || this.#secondHello !== undefined;
    if (this.#isGuestEnded && this.#phase === 'open' && !isWaiting) this.#upstream?.end();
  }

  #spend(direction: 'sent' | 'received', bytes: number): boolean {
    this.#context.onBytes(direction, bytes);
    if (this.#budget?.spend(direction, bytes) !== false) return true;
    this.#refuse('byte_budget', 'the byte budget of the sandbox is used up');
    return false;
  }

  #refuse(reason: EndReason, why: string, name?: string, status: RefusalStatus = 403): void {
    if (this.#phase === 'answering' || this.#phase === 'closed') return;
    this.#context.onRefused(reason, why, name);
    this.#disarmHead();
    this.#held = [];
    const isQuiet =
      reason === 'idle_timeout' || reason === 'ended_early' || reason === 'byte_budget';
    this.#refusal =
      isQuiet && this.#phase !== 'reading' ? undefined : this.#words(reason, why, status);
    const hasForwarded = this.#phase === 'open' || this.#phase === 'dialling';
    if (this.#protocol !== 'http' || !hasForwarded || isQuiet || reason === 'unreachable') {
      this.#answer();
      return;
    }
    // An answer in the middle of an earlier one would be read as a part of it.
    this.#guest.pause();
    this.#isLast = true;
    if (this.#phase !== 'open') return;
    this.#phase = 'draining';
    if (this.#responses.isComplete) this.#answer();
  }

  /** The upstream left an earlier answer unfinished: so does the guest's connection. */
  #cutShort(): void {
    this.#refusal = undefined;
    this.#answer();
  }

  #words(reason: EndReason, why: string, status: RefusalStatus): Uint8Array | undefined {
    if (reason === 'ended_early' || reason === 'idle_timeout') return undefined;
    if (this.#protocol === 'http') return httpRefusal(status, reason, why);
    return this.#hasReceived || reason === 'unreachable' ? undefined : tlsRefusal();
  }

  #answer(): void {
    this.#phase = 'answering';
    this.#upstream?.destroy();
    // What still comes is read and dropped: an unread byte would turn the end into a reset.
    this.#guest.resume();
    if (this.#refusal === undefined) this.#guest.end();
    else this.#guest.end(this.#refusal);
    this.#linger();
  }

  /** A close, not a reset: what was sent is still delivered. */
  #linger(): void {
    const { clock, timeouts } = this.#context;
    this.#cancelLinger?.();
    this.#cancelLinger = clock.after(timeouts.lingerMs, () => this.#guest.destroy());
  }

  #armHead(): void {
    this.#cancelHead ??= this.#context.clock.after(this.#context.timeouts.headMs, () => {
      const why = 'the guest took too long to say where to';
      this.#refuse('head_timeout', why, undefined, 408);
    });
  }

  #disarmHead(): void {
    this.#cancelHead?.();
    this.#cancelHead = undefined;
  }

  #armIdle(delayMs: number): void {
    const { clock, timeouts } = this.#context;
    this.#cancelIdle = clock.after(delayMs, () => {
      const restMs = this.#movedAtMs + timeouts.idleMs - clock.now();
      // Timers of the platform may come a fraction of a millisecond early.
      if (restMs > 1) this.#armIdle(restMs);
      else if (this.#phase !== 'answering')
        this.#refuse('idle_timeout', 'no byte moved for too long');
    });
  }

  #onClosed(): void {
    this.#phase = 'closed';
    this.#disarmHead();
    this.#cancelIdle?.();
    this.#cancelLinger?.();
    this.#queue = [];
    this.#held = [];
    this.#upstream?.destroy();
  }
}
