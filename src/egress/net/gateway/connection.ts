/**
 * One connection of a guest through the gateway (io).
 *
 *     reading ──► dialing ──► open ──► closing ──► closed    the upstream has ended: deliver the rest
 *        │           │         │ a later request is refused
 *        │           │         └─► draining ─┐   answers to earlier requests first
 *        └───────────┴────────► answering ◄──┘   sends the refusal, then closes
 *        └─► decrypted    TLS to a host with secrets or request rules: `secret/connection.ts`
 *
 * TCP holds back a guest that is not read from; at most one head and one chunk are kept here.
 */
import type { Socket } from 'node:net';
import { IdleTimer } from '../../../base/idle-timer.ts';
import { ignore } from '../../../base/ignore.ts';
import { hostText, type RequestHead } from '../http/head.ts';
import { httpRefusal, type RefusalStatus, tlsRefusal } from '../http/refusal.ts';
import { type HttpPiece, HttpRequestReader } from '../http/requests.ts';
import { HttpResponses } from '../http/responses.ts';
import { type Endpoint, exhaustedText, GatewayJudge } from '../policy/judge.ts';
import { SecretConnection } from '../secret/connection.ts';
import { type EgressSecrets, needsSecrets, placeholdersIn } from '../secret/secret.ts';
import type { ClientHello } from '../tls/client-hello.ts';
import { PHASES, type Phase, type Refused } from './phases.ts';
import type { ConnectionContext, EndReason, GatewayProtocol, GatewaySandbox } from './sandbox.ts';
import { type HelloStep, TlsHellos } from './tls-hellos.ts';

export class GatewayConnection {
  readonly #context: ConnectionContext;
  readonly #guest: Socket;
  readonly #secrets: () => EgressSecrets | undefined;
  #decrypted: { readonly connection: SecretConnection; readonly secrets: EgressSecrets } | undefined;
  readonly #destination: Endpoint;
  readonly #judge: GatewayJudge;
  #phase: Phase = 'reading';
  #protocol: GatewayProtocol | undefined;
  #upstream: Socket | undefined;
  #queue: Uint8Array[] = [];
  readonly #hellos = new TlsHellos();
  #hello: ClientHello | undefined;
  readonly #requests = new HttpRequestReader();
  #lastHead: RequestHead | undefined;
  readonly #responses = new HttpResponses();
  #hasReceived = false;
  #cancelHead: (() => void) | undefined;
  #cancelLinger: (() => void) | undefined;
  readonly #idle: IdleTimer;
  #refusal: Uint8Array | undefined;
  #isGuestEnded = false;
  /** True if a later request was refused while dialing. */
  #isLast = false;

  /** @param protocol undefined if the first byte decides */
  constructor(
    context: ConnectionContext,
    guest: Socket,
    sandbox: GatewaySandbox,
    destination: Endpoint,
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
      if (this.#phase !== 'answering') this.#refuse('idle_timeout', 'idle for too long');
    });
    guest.on('data', (bytes) => this.#onGuestData(bytes));
    guest.on('end', () => this.#onGuestEnd());
    guest.on('error', (error) => ignore(error, 'the guest broke its connection'));
    guest.once('close', () => this.#onClosed());
  }

  destroy(): void {
    if (this.#decrypted === undefined) this.#guest.resetAndDestroy();
    else this.#decrypted.connection.destroy();
  }

  /** Call after a policy change. Ends the connection unless what it began with is still allowed. */
  rejudge(): void {
    const head = this.#lastHead;
    // Secrets have changed, or the host now needs decryption.
    const serverName = this.#hello?.serverName;
    const wanted = this.#isDecrypted(serverName) ? this.#secrets() : undefined;
    const inside = this.#decrypted?.connection.lastHead;
    const judged = [
      this.#hello && this.#judge.hello(this.#hello),
      head && this.#judge.head(head),
      inside && this.#judge.head(inside),
    ];
    const isOther = this.#decrypted?.secrets !== wanted;
    if (isOther || judged.some((each) => each?.ok === false)) this.destroy();
  }

  #isDecrypted(serverName: string | undefined): serverName is string {
    if (serverName === undefined) return false;
    return needsSecrets(this.#secrets(), serverName) || this.#judge.decrypts(serverName);
  }

  #onGuestData(bytes: Buffer): void {
    if (!PHASES[this.#phase].guest) return;
    this.#idle.touch();
    if (!this.#context.onBytes('sent', bytes.length)) return;
    this.#protocol ??= bytes[0] === 22 ? 'tls' : 'http';
    if (this.#protocol === 'http') this.#onHttp(bytes);
    else this.#onHelloStep(this.#hellos.fromGuest(bytes));
  }

  // TLS

  #onHelloStep(step: HelloStep): void {
    switch (step.kind) {
      case 'more':
        return;
      case 'pause':
        this.#guest.pause();
        return;
      case 'hello':
        this.#onHello(step.hello, step.bytes);
        return;
      case 'pass':
        this.#forward(step.bytes);
        return;
      case 'second_due':
        this.#armHead();
        if (this.#isGuestEnded) this.#onGuestEnd();
        else this.#guest.resume();
        return;
      case 'release':
        this.#disarmHead();
        this.#guest.resume();
        for (const bytes of step.bytes) this.#forward(bytes);
        this.#passEnd();
        return;
      case 'refused':
        this.#refuse(step.reason, step.why);
    }
  }

  /** @param bytes everything that the guest has sent */
  #onHello(hello: ClientHello, bytes: Buffer): void {
    const judged = this.#judge.hello(hello);
    if (!judged.ok) {
      this.#refuse(judged.reason, judged.why, judged.name);
      return;
    }
    if (this.#isDecrypted(hello.serverName)) {
      this.#hello = hello;
      this.#decrypt(bytes, hello.serverName);
      return;
    }
    if (!this.#isAdmitted(judged.name)) return;
    this.#hello = hello;
    this.#disarmHead();
    this.#forward(this.#hellos.accept(hello));
  }

  /** @param bytes everything that the guest has sent */
  #decrypt(bytes: Buffer, serverName: string): void {
    const secrets = this.#secrets();
    const judged = this.#judge.decryptable(serverName, secrets !== undefined);
    if (!judged.ok) this.#refuse(judged.reason, judged.why, serverName);
    if (!judged.ok || secrets === undefined || !this.#isAdmitted(serverName)) return;
    const hold = this.#context.takeDecryption();
    if (hold === undefined) {
      this.#refuse('decryption_limit', 'too many connections to hosts with secrets', serverName);
      return;
    }
    this.#guest.once('close', hold.release);
    const { clock, dial, timeouts, onAllowed, onBytes, onRefused, onSecrets } = this.#context;
    this.#disarmHead();
    this.#idle.stop();
    this.#hellos.clear();
    this.#phase = 'decrypted';
    this.#guest.pause();
    this.#guest.removeAllListeners('data').removeAllListeners('end');
    this.#guest.unshift(bytes);
    const context = {
      clock,
      dial,
      timeouts,
      onSecrets,
      judge: (head: RequestHead) => this.#judge.head(head),
      onRequest: (host: string) => void onAllowed('http', host),
      onRefused: (reason: EndReason, why: string) => onRefused(reason, why, serverName),
      onBytes,
    };
    const connection = new SecretConnection(context, this.#guest, serverName, this.#destination, secrets);
    this.#decrypted = { connection, secrets };
  }

  #isAdmitted(name: string | undefined): boolean {
    const isAdmitted = this.#context.onAllowed('tls', name);
    if (!isAdmitted) this.#refuse('budget_spent', exhaustedText(name), name);
    return isAdmitted;
  }

  // HTTP

  #onHttp(bytes: Buffer): void {
    const passed: Uint8Array[] = [];
    for (const piece of this.#requests.push(bytes)) {
      if (piece.kind === 'end') continue;
      const refused = piece.kind === 'body' ? undefined : this.#judgePiece(piece);
      if (refused !== undefined) {
        // Passes on what was judged before it.
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
      const why = `invalid or ambiguous HTTP/1.1 request: ${piece.reason}`;
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

  /** Plain HTTP gets no secrets, whatever the host. */
  #notePlaceholders({ host, forward }: RequestHead): void {
    const names = placeholdersIn(this.#secrets()?.secrets ?? [], forward);
    if (names.length > 0) this.#context.onSecrets({ kind: 'unfilled', names, host: hostText(host) });
  }

  // TLS and HTTP

  #forward(bytes: Uint8Array): void {
    if (this.#phase === 'reading') this.#dial();
    if (this.#phase === 'dialing') {
      this.#queue.push(bytes);
      return;
    }
    if (this.#phase !== 'open' || this.#upstream === undefined) return;
    if (!this.#upstream.write(bytes)) this.#guest.pause();
  }

  #dial(): void {
    const { clock, dial, timeouts } = this.#context;
    this.#phase = 'dialing';
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
    upstream.on('error', (error) => ignore(error, 'the upstream broke its connection'));
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
    if (this.#phase !== 'dialing') {
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
    if (this.#phase === 'open' && !this.#hellos.isServerDue) this.#guest.resume();
  }

  #onUpstreamData(bytes: Buffer): void {
    if (!PHASES[this.#phase].upstream) return;
    this.#idle.touch();
    if (!this.#context.onBytes('received', bytes.length)) return;
    this.#hasReceived = true;
    if (!this.#guest.write(bytes)) this.#upstream?.pause();
    if (this.#protocol !== 'http') {
      this.#onHelloStep(this.#hellos.fromServer(bytes));
      return;
    }
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
    if (!this.#hellos.isServerDue) return;
    // Too late to ask for a second hello. Keeps reading, to see the guest's end.
    this.#hellos.clear();
    this.#guest.resume();
    this.#passEnd();
  }

  #onUpstreamClosed(isCut: boolean): void {
    if (this.#phase === 'dialing') {
      const { address, port } = this.#destination;
      const why = `${address} port ${port} refused the connection or did not answer`;
      this.#refuse('unreachable', why, undefined, 502);
    } else if (this.#phase === 'open' && isCut) this.destroy();
    else if (this.#phase === 'open') this.#close();
    else if (this.#phase === 'draining') this.#cutShort();
  }

  /** The upstream has ended: delivers the rest to the guest, however slowly it reads. */
  #close(): void {
    this.#phase = 'closing';
    this.#guest.resume();
    if (this.#guest.writableFinished) this.#linger();
    else this.#guest.end(() => this.#linger());
  }

  #onGuestEnd(): void {
    this.#isGuestEnded = true;
    if (this.#phase === 'reading') this.#refuse('ended_early', 'the guest closed before its first hello or head');
    else if (this.#hellos.isSecondDue) this.#refuse('ended_early', 'the guest closed inside its second hello');
    else this.#passEnd();
  }

  /** Ends the upstream's input after the guest's last byte, which may be held. */
  #passEnd(): void {
    const isWaiting = this.#hellos.isServerDue || this.#hellos.isSecondDue;
    if (this.#isGuestEnded && this.#phase === 'open' && !isWaiting) this.#upstream?.end();
  }

  #refuse(reason: EndReason, why: string, name?: string, status: RefusalStatus = 403): void {
    if (this.#phase === 'answering' || this.#phase === 'closed') return;
    this.#context.onRefused(reason, why, name);
    this.#disarmHead();
    this.#hellos.clear();
    const isQuiet = reason === 'idle_timeout' || reason === 'ended_early';
    this.#refusal = isQuiet && this.#phase !== 'reading' ? undefined : this.#refusalBytes(reason, why, status);
    const hasForwarded = this.#phase === 'open' || this.#phase === 'dialing';
    if (this.#protocol !== 'http' || !hasForwarded || isQuiet || reason === 'unreachable') {
      this.#answer();
      return;
    }
    // Inside an earlier answer, the client would read the refusal as a part of it.
    this.#guest.pause();
    this.#isLast = true;
    if (this.#phase !== 'open') return;
    this.#phase = 'draining';
    if (this.#responses.isComplete) this.#answer();
  }

  /** The upstream left an earlier answer incomplete, so the guest gets no refusal after it. */
  #cutShort(): void {
    this.#refusal = undefined;
    this.#answer();
  }

  #refusalBytes(reason: EndReason, why: string, status: RefusalStatus): Uint8Array | undefined {
    if (reason === 'ended_early' || reason === 'idle_timeout') return undefined;
    if (this.#protocol === 'http') return httpRefusal(status, reason, why);
    return this.#hasReceived || reason === 'unreachable' ? undefined : tlsRefusal();
  }

  #answer(): void {
    this.#phase = 'answering';
    this.#upstream?.destroy();
    // Reads and drops what still arrives: an unread byte would turn the end into a reset.
    this.#guest.resume();
    if (this.#refusal === undefined) this.#guest.end();
    else this.#guest.end(this.#refusal);
    this.#linger();
  }

  /** Closes late, so that sent bytes are delivered before a reset. */
  #linger(): void {
    const { clock, timeouts } = this.#context;
    this.#cancelLinger?.();
    this.#cancelLinger = clock.after(timeouts.lingerMs, () => this.#guest.destroy());
  }

  #armHead(): void {
    this.#cancelHead ??= this.#context.clock.after(this.#context.timeouts.headMs, () => {
      const why = 'the guest took too long to send its hello or head';
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
    this.#hellos.clear();
    this.#upstream?.destroy();
  }
}
