/**
 * The requests and answers of one connection to a host that secrets belong to, or whose requests are judged, in clear: bytes of both ends in,
 * what is to be sent to which out. Pure.
 *
 *     guest ─► HttpRequestReader ─► judge, Host = SNI, method ─► fillHead ─────────► upstream
 *     guest ◄──────────────────────── SecretResponses ◄───────────────────────────── upstream
 *
 * A request that is refused is answered after the answers to earlier ones, and is the last.
 */

import { hostText, type RequestHead } from '../http/head.ts';
import { httpRefusal, type RefusalStatus } from '../http/refusal.ts';
import { type HttpPiece, HttpRequestReader } from '../http/requests.ts';
import type { Judgement, RefusalReason } from '../policy/judge.ts';
import { type FilledHead, fillHead } from './head.ts';
import { type ResponsePiece, type ResponseProblem, SecretResponses } from './responses.ts';
import { type EgressSecret, matcherOf, placeholdersIn, secretsOf } from './secret.ts';

export type ExchangeReason =
  | RefusalReason
  | ResponseProblem
  /** `Host` is not the name that TLS was opened for. */
  | 'host_not_sni'
  /** Of a method that tells a request back. */
  | 'method_refused'
  /** More after a request to change the protocol, before its answer. */
  | 'early'
  | 'upstream_failed';

export type ExchangeOutput =
  | { readonly kind: 'to_upstream'; readonly bytes: Uint8Array }
  | { readonly kind: 'to_guest'; readonly bytes: Uint8Array }
  /** A request goes out. @param filled names of the secrets in it */
  | { readonly kind: 'request'; readonly name: string; readonly filled: readonly string[] }
  /** Placeholders of secrets that do not belong to this host, or not in such a request: they went as they are. */
  | { readonly kind: 'unfilled'; readonly names: readonly string[] }
  | { readonly kind: 'refused'; readonly reason: ExchangeReason; readonly why: string }
  /** The guest's end is to be closed when all has been sent. */
  | { readonly kind: 'close' };

interface ExchangeOptions {
  /** SNI. */
  readonly host: string;
  /** Of the sandbox, whatever their hosts. */
  readonly secrets: readonly EgressSecret[];
  readonly judge: (head: RequestHead) => Judgement;
}

/** Methods that are for looking at requests (RFC 9110 sections 9.3.7, 9.3.8). */
const REFUSED_METHODS: ReadonlySet<string> = new Set(['TRACE', 'TRACK', 'DEBUG']);

export class SecretExchange {
  readonly #options: ExchangeOptions;
  readonly #own: readonly EgressSecret[];
  readonly #requests = new HttpRequestReader('https');
  readonly #responses: SecretResponses;
  #phase: 'http' | 'upgrading' | 'tunnel' | 'refusing' | 'closed' = 'http';
  #refusal: Uint8Array = new Uint8Array();
  #lastHead: RequestHead | undefined;
  #out: ExchangeOutput[] = [];

  constructor(options: ExchangeOptions) {
    this.#options = options;
    this.#own = secretsOf(options.secrets, options.host);
    const hasOwn = this.#own.length > 0;
    this.#responses = new SecretResponses(
      hasOwn ? matcherOf(options.secrets, options.host) : undefined,
    );
  }

  /** What a change of the policy has to let through. */
  get lastHead(): RequestHead | undefined {
    return this.#lastHead;
  }

  /** False: the guest is not to be read from. */
  get isOpen(): boolean {
    return this.#phase === 'http' || this.#phase === 'tunnel';
  }

  /** A request is under way. */
  get isInHead(): boolean {
    return this.#phase === 'http' && (this.#requests.isInHead || this.#lastHead === undefined);
  }

  fromGuest(bytes: Uint8Array): readonly ExchangeOutput[] {
    this.#out = [];
    if (this.#phase === 'tunnel') this.#out.push({ kind: 'to_upstream', bytes });
    else if (this.#phase === 'upgrading') this.#tooEarly();
    else if (this.#phase === 'http') this.#onRequests(this.#requests.push(bytes));
    return this.#out;
  }

  fromUpstream(bytes: Uint8Array): readonly ExchangeOutput[] {
    this.#out = [];
    if (this.#phase !== 'closed') this.#onResponses(this.#responses.push(bytes));
    return this.#out;
  }

  /** @param failure why it could not be had; undefined: it has ended */
  upstreamEnded(failure?: string): readonly ExchangeOutput[] {
    this.#out = [];
    if (this.#phase === 'closed') return this.#out;
    this.#onResponses(this.#responses.end());
    if (failure !== undefined) this.#report('upstream_failed', failure);
    const isAnswerable = failure !== undefined && this.#responses.isBetween;
    if (isAnswerable) this.#answer(httpRefusal(502, 'upstream_failed', failure));
    this.#close();
    return this.#out;
  }

  #onRequests(pieces: readonly HttpPiece[]): void {
    for (const piece of pieces) this.#onPiece(piece);
    if (this.#phase === 'upgrading' && !this.#requests.isAtStart) this.#tooEarly();
  }

  #onPiece(piece: HttpPiece): void {
    if (this.#phase === 'upgrading' && piece.kind !== 'end') this.#tooEarly();
    if (this.#phase !== 'http') return;
    if (piece.kind === 'body') this.#out.push({ kind: 'to_upstream', bytes: piece.bytes });
    else if (piece.kind === 'head') this.#onHead(piece.head);
    else if (piece.kind === 'refused') {
      if (this.#requests.isCut) this.#responses.withdraw();
      const why = `no HTTP/1.1 request that can be judged: ${piece.reason}`;
      this.#refuse(400, `http_${piece.reason}`, why);
    }
  }

  #onHead(head: RequestHead): void {
    const { host, secrets, judge } = this.#options;
    const asked = hostText(head.host);
    const judged = judge(head);
    if (!judged.ok) {
      this.#refuse(403, judged.reason, judged.why);
      return;
    }
    if (asked !== host) {
      this.#refuse(421, 'host_not_sni', `Host is ${asked}, but TLS was opened for ${host}`);
      return;
    }
    if (REFUSED_METHODS.has(head.method.toUpperCase())) {
      this.#refuse(403, 'method_refused', `${head.method} is not passed on to ${host}`);
      return;
    }
    this.#lastHead = head;
    const filled = this.#fill(head);
    const unfilled = placeholdersIn(secrets, filled.forward);
    if (unfilled.length > 0) this.#out.push({ kind: 'unfilled', names: unfilled });
    const isUpgrade = head.upgrade !== undefined;
    const request = { method: head.method, isUpgrade };
    if (!this.#responses.expect(request)) {
      this.#refuse(403, 'response_unasked', 'too many requests wait for their answers');
      return;
    }
    if (isUpgrade) this.#phase = 'upgrading';
    this.#out.push({ kind: 'request', name: host, filled: filled.used });
    this.#out.push({ kind: 'to_upstream', bytes: Buffer.from(filled.forward, 'latin1') });
  }

  /** Where no secret belongs the request goes as it is: nothing has to be found in its answer. */
  #fill(head: RequestHead): FilledHead {
    if (this.#own.length === 0) return { forward: head.forward, used: [] };
    return fillHead(head, this.#mayFill(head) ? this.#own : []);
  }

  /** Whoever answers these may be a proxy in front of the host, which tells the request back. */
  #mayFill({ method, fields }: RequestHead): boolean {
    return method !== 'OPTIONS' && !fields.some(({ name }) => /^max-forwards$/i.test(name));
  }

  #onResponses(pieces: readonly ResponsePiece[]): void {
    for (const piece of pieces) {
      if (this.#phase === 'closed') return;
      if (piece.kind === 'bytes') this.#out.push({ kind: 'to_guest', bytes: piece.bytes });
      else if (piece.kind === 'switched') this.#phase = 'tunnel';
      else if (piece.kind === 'head') this.#onResponseHead(piece.isLast, piece.status);
      else if (piece.kind === 'refused') this.#onBadResponse(piece.reason);
      else if (this.#phase === 'refusing' && this.#responses.isComplete)
        this.#answer(this.#refusal);
    }
  }

  /** The upgrade was not taken: HTTP goes on. */
  #onResponseHead(isLast: boolean, status: number): void {
    if (this.#phase === 'upgrading' && isLast && status !== 101) this.#phase = 'http';
  }

  #onBadResponse(reason: ResponseProblem): void {
    const why = `the answer of ${this.#options.host} can not be passed on: ${reason}`;
    this.#report(reason, why);
    // A head that is refused has not been passed on; what comes later has.
    if (reason === 'response_encoded' || reason === 'response_partial')
      this.#answer(httpRefusal(502, reason, why));
    else this.#close();
  }

  #tooEarly(): void {
    this.#refuse(400, 'early', 'more was sent before the change of the protocol was answered');
  }

  #refuse(status: RefusalStatus, reason: ExchangeReason, why: string): void {
    if (this.#phase === 'refusing' || this.#phase === 'closed') return;
    this.#report(reason, why);
    this.#refusal = httpRefusal(status, reason, why);
    this.#phase = 'refusing';
    if (this.#responses.isComplete) this.#answer(this.#refusal);
  }

  #report(reason: ExchangeReason, why: string): void {
    this.#out.push({ kind: 'refused', reason, why });
  }

  #answer(bytes: Uint8Array): void {
    this.#out.push({ kind: 'to_guest', bytes });
    this.#close();
  }

  #close(): void {
    if (this.#phase === 'closed') return;
    this.#phase = 'closed';
    this.#out.push({ kind: 'close' });
  }
}
