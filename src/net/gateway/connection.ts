/**
 * One connection of a guest through the gateway (io).
 *
 *     reading ──► dialling ──► open ──► closing ──► closed    the upstream has ended: the rest is delivered
 *        │            │          │ a later request is refused
 *        │            │          └─► draining ─┐   the answers to earlier ones first
 *        └────────────┴────────► answering ◄───┘   says why, then closes
 *        └─► decrypted    TLS to a host that secrets belong to, or whose requests are judged: `secret-connection.ts`
 *
 * A guest that is not read from is held back by TCP; nothing is kept here beyond one head and one chunk.
 */
import type { Socket } from 'node:net';
import { IdleTimer } from '../../base/idle-timer.ts';
import { ignore } from '../../base/ignore.ts';
import { hostText, type RequestHead } from '../http/head.ts';
import { httpRefusal, type RefusalStatus, tlsRefusal } from '../http/refusal.ts';
import { type HttpPiece, HttpRequestReader } from '../http/requests.ts';
import { HttpResponses } from '../http/responses.ts';
import { type Destination, exhaustedText, GatewayJudge } from '../policy/judge.ts';
import { SecretConnection } from '../secret/connection.ts';
import { type EgressSecrets, needsSecrets, placeholdersIn } from '../secret/secret.ts';
import { type ClientHello, ClientHelloReader } from '../tls/client-hello.ts';
import { SecondHello, ServerHelloStart } from '../tls/hello-retry.ts';
import type { ConnectionContext, EndReason, GatewayProtocol, GatewaySandbox } from './sandbox.ts';

interface Refused {
  readonly reason: EndReason;
  readonly why: string;
  readonly name: string | undefined;
}

type Phase =
  | 'reading'
  | 'dialling'
  | 'open'
  | 'closing'
  | 'draining'
  | 'answering'
  /** `SecretConnection` has it. */
  | 'decrypted'
  | 'closed';
const DEAF = new Set<Phase>(['closing', 'draining', 'answering', 'decrypted', 'closed']);

export class GatewayConnection {
  readonly #context: ConnectionContext;
  readonly #guest: Socket;
  readonly #secrets: () => EgressSecrets | undefined;
  #decrypted:
    | { readonly connection: SecretConnection; readonly secrets: EgressSecrets }
    | undefined;
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
  #cancelLinger: (() => void) | undefined;
  readonly #idle: IdleTimer;
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
    this.#secrets = sandbox.secrets ?? (() => undefined);
    this.#destination = destination;
    this.#protocol = protocol;
    this.#judge = new GatewayJudge(sandbox.policy, sandbox.pins, destination);
    this.#armHead();
    this.#idle = new IdleTimer(context.clock, context.timeouts.idleMs, () => {
      if (this.#phase !== 'answering') this.#refuse('idle_timeout', 'no byte moved for too long');
    });
    guest.on('data', (bytes) => this.#onGuestData(bytes));
    guest.on('end', () => this.#onGuestEnd());
    guest.on('error', (error) => ignore(error, 'a guest that broke its connection'));
    guest.once('close', () => this.#onClosed());
  }

  /** At once, without a word. */
  destroy(): void {
    if (this.#decrypted === undefined) this.#guest.resetAndDestroy();
    else this.#decrypted.connection.destroy();
  }

  /** After a change of the policy: ends at once unless what it began with would be let through now. */
  rejudge(): void {
    const head = this.#lastHead;
    // Began with secrets that are others now, or should have.
    const serverName = this.#hello?.serverName;
    const wanted = this.#isRead(serverName) ? this.#secrets() : undefined;
    const inside = this.#decrypted?.connection.lastHead;
    const judged = [
      this.#hello && this.#judge.hello(this.#hello),
      head && this.#judge.head(head),
      inside && this.#judge.head(inside),
    ];
    const isOther = this.#decrypted?.secrets !== wanted;
    if (isOther || judged.some((each) => each?.ok === false)) this.destroy();
  }

  /** TLS to it is not only passed on. */
  #isRead(serverName: string | undefined): serverName is string {
    if (serverName === undefined) return false;
    return needsSecrets(this.#secrets(), serverName) || this.#judge.decrypts(serverName);
  }

  #onGuestData(bytes: Buffer): void {
    if (DEAF.has(this.#phase)) return;
    this.#idle.touch();
    if (!this.#context.onBytes('sent', bytes.length)) return;
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
    const { serverName } = state.hello;
    if (this.#isRead(serverName)) {
      this.#hello = state.hello;
      this.#decrypt(all, serverName);
      return;
    }
    if (!this.#isAdmitted(judged.name)) return;
    const { wireBytes } = this.#helloReader;
    this.#held = wireBytes < all.length ? [all.subarray(wireBytes)] : [];
    this.#hello = state.hello;
    this.#serverStart = new ServerHelloStart();
    this.#disarmHead();
    this.#forward(all.subarray(0, wireBytes));
  }

  /** @param all that the guest has sent */
  #decrypt(all: Buffer, serverName: string): void {
    const secrets = this.#secrets();
    const judged = this.#judge.decryptable(serverName, secrets !== undefined);
    if (!judged.ok) this.#refuse(judged.reason, judged.why, serverName);
    if (!judged.ok || secrets === undefined || !this.#isAdmitted(serverName)) return;
    const { clock, dial, timeouts, onAllowed, onBytes, onRefused, onSecrets } = this.#context;
    this.#disarmHead();
    this.#idle.stop();
    this.#held = [];
    this.#phase = 'decrypted';
    this.#guest.pause();
    this.#guest.removeAllListeners('data').removeAllListeners('end');
    this.#guest.unshift(all);
    const context = {
      ...{ clock, dial, timeouts, onSecrets },
      judge: (head: RequestHead) => this.#judge.head(head),
      onRequest: (host: string) => void onAllowed('http', host),
      onRefused: (reason: EndReason, why: string) => onRefused(reason, why, serverName),
      onBytes,
    };
    const connection = new SecretConnection(
      context,
      this.#guest,
      serverName,
      this.#destination,
      secrets,
    );
    this.#decrypted = { connection, secrets };
  }

  #isAdmitted(name: string | undefined): boolean {
    const isAdmitted = this.#context.onAllowed('tls', name);
    if (!isAdmitted) this.#refuse('budget_spent', exhaustedText(name), name);
    return isAdmitted;
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
      if (this.#requests.isCut) this.#responses.withdraw();
      const why = `no HTTP/1.1 request that can be judged: ${piece.reason}`;
      return { reason: `http_${piece.reason}`, why, name: undefined, status: 400 };
    }
    this.#lastHead = piece.head;
    const judged = this.#judge.head(piece.head);
    const { name } = judged;
    if (!judged.ok) return { reason: judged.reason, why: judged.why, name, status: 403 };
    if (!this.#context.onAllowed('http', name))
      return { reason: 'budget_spent', why: exhaustedText(name), name, status: 403 };
    this.#notePlaceholders(piece.head);
    this.#responses.expect(piece.head.method);
    return undefined;
  }

  /** In plain HTTP nothing is put in, whatever the host. */
  #notePlaceholders({ host, forward }: RequestHead): void {
    const names = placeholdersIn(this.#secrets()?.secrets ?? [], forward);
    if (names.length > 0)
      this.#context.onSecrets({ kind: 'unfilled', names, host: hostText(host) });
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
      this.#idle.touch();
      upstream.resume();
    });
  }

  #onConnected(upstream: Socket): void {
    if (this.#phase !== 'dialling') {
      upstream.destroy();
      return;
    }
    this.#idle.touch();
    this.#phase = 'open';
    const queue = this.#queue;
    this.#queue = [];
    let isRoomy = true;
    for (const bytes of queue) isRoomy = upstream.write(bytes);
    if (this.#isLast) {
      this.#phase = 'draining';
      if (this.#responses.isComplete) this.#answer();
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
    this.#idle.touch();
    if (!this.#context.onBytes('received', bytes.length)) return;
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

  #refuse(reason: EndReason, why: string, name?: string, status: RefusalStatus = 403): void {
    if (this.#phase === 'answering' || this.#phase === 'closed') return;
    this.#context.onRefused(reason, why, name);
    this.#disarmHead();
    this.#held = [];
    const isQuiet = reason === 'idle_timeout' || reason === 'ended_early';
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

  #onClosed(): void {
    this.#phase = 'closed';
    this.#disarmHead();
    this.#idle.stop();
    this.#cancelLinger?.();
    this.#queue = [];
    this.#held = [];
    this.#upstream?.destroy();
  }
}
