/**
 * The decrypted requests and answers of one connection to a host with secrets or request rules: bytes of both ends in,
 * bytes for both ends out. Pure.
 *
 *     guest ─► HttpRequestReader ─► judge, Host = SNI, method ─► fillHead, set ────► upstream
 *     guest ◄──────────────────────── SecretResponses ◄───────────────────────────── upstream
 *
 * A refusal is sent after the answers to earlier requests, and is the last answer.
 */

import { hostText, type RequestHead } from '../http/head.ts';
import { httpRefusal, type RefusalStatus } from '../http/refusal.ts';
import { type HttpPiece, HttpRequestReader } from '../http/requests.ts';
import type { Judgement, RefusalReason } from '../policy/judge.ts';
import { type FilledHead, fillHead, foreignField, type PlacementProblem, type RefusedHead } from './head.ts';
import { type ResponsePiece, type ResponseProblem, SecretResponses } from './responses.ts';
import { type EgressSecret, hidesAny, matcherOf, placeholdersIn, secretsOf } from './secret.ts';
import { isSetField, withoutSetFields, withSetFields } from './set-fields.ts';

export type ExchangeReason =
  | RefusalReason
  | ResponseProblem
  | PlacementProblem
  | 'host_not_sni'
  /** A method whose answer repeats the request. */
  | 'method_refused'
  | 'early'
  | 'upstream_failed';

export type ExchangeOutput =
  | { readonly kind: 'to_upstream'; readonly bytes: Uint8Array }
  | { readonly kind: 'to_guest'; readonly bytes: Uint8Array }
  /** A request is sent. @param filled names of the secrets in it */
  | { readonly kind: 'request'; readonly name: string; readonly filled: readonly string[] }
  /** Cookies were removed from the request, because secrets of these names are in it. */
  | { readonly kind: 'without_cookies'; readonly names: readonly string[] }
  | { readonly kind: 'unplaced'; readonly names: readonly string[]; readonly why: string }
  /** Names of placeholders sent unchanged: their secrets do not belong to this host, or not in such a request. */
  | { readonly kind: 'unfilled'; readonly names: readonly string[] }
  | { readonly kind: 'refused'; readonly reason: ExchangeReason; readonly why: string }
  /** Close the guest's end after everything is sent. */
  | { readonly kind: 'close' };

interface ExchangeOptions {
  readonly host: string;
  /** All secrets of the sandbox, whatever their hosts. */
  readonly secrets: readonly EgressSecret[];
  readonly judge: (head: RequestHead) => Judgement;
}

/** Methods for inspecting requests (RFC 9110 sections 9.3.7, 9.3.8). */
const REFUSED_METHODS: ReadonlySet<string> = new Set(['TRACE', 'TRACK', 'DEBUG']);

export class SecretExchange {
  readonly #options: ExchangeOptions;
  /** The host's secrets for which the guest sends placeholders. */
  readonly #own: readonly EgressSecret[];
  /** The host's secrets that are set in each request. */
  readonly #set: readonly EgressSecret[];
  /** True if answers must be plain, so that values can be removed. */
  readonly #isScrubbed: boolean;
  readonly #requests = new HttpRequestReader('https');
  readonly #responses: SecretResponses;
  #phase: 'http' | 'upgrading' | 'tunnel' | 'refusing' | 'closed' = 'http';
  #refusal: Uint8Array = new Uint8Array();
  #lastHead: RequestHead | undefined;
  #used: readonly string[] = [];
  #out: ExchangeOutput[] = [];

  constructor(options: ExchangeOptions) {
    this.#options = options;
    const ofHost = secretsOf(options.secrets, options.host);
    this.#own = ofHost.filter(({ sets }) => sets === undefined);
    this.#set = ofHost.filter(({ sets }) => sets !== undefined);
    this.#isScrubbed = hidesAny(ofHost);
    this.#responses = new SecretResponses(this.#isScrubbed ? matcherOf(options.secrets, options.host) : undefined);
  }

  /** The last allowed request, to judge again after a policy change. */
  get lastHead(): RequestHead | undefined {
    return this.#lastHead;
  }

  get isOpen(): boolean {
    return this.#phase === 'http' || this.#phase === 'tunnel';
  }

  /** True within a head, or if the first one is due. */
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

  /** @param failure why the upstream is unreachable; undefined if it has ended */
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
    if (piece.kind === 'body') this.#onBody(piece);
    else if (piece.kind === 'head') this.#onHead(piece.head);
    else if (piece.kind === 'refused') {
      if (this.#requests.isCut) this.#responses.withdraw();
      const why = `invalid or ambiguous HTTP/1.1 request: ${piece.reason}`;
      this.#refuse(400, `http_${piece.reason}`, why);
    }
  }

  /** Some servers merge a trailer into the head, whose secrets were judged without it. */
  #onBody({ bytes, trailer = [] }: Extract<HttpPiece, { kind: 'body' }>): void {
    const set = trailer.find((field) => isSetField(field, this.#set));
    const foreign = this.#used.length === 0 ? undefined : foreignField(trailer, this.#own);
    if (set === undefined && foreign === undefined) {
      this.#out.push({ kind: 'to_upstream', bytes });
      return;
    }
    this.#responses.withdraw();
    if (foreign === undefined) {
      const why = `the trailer field ${set?.name.slice(0, 64)} is set by the gateway; omit it`;
      this.#refuse(403, 'secret_misplaced', why);
      return;
    }
    const why = `the trailer field ${foreign} is another credential beside the secret ${this.#used.join(', ')}; omit it`;
    this.#out.push({ kind: 'unplaced', names: this.#used, why });
    this.#refuse(403, 'credential_beside_secret', why);
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
      this.#refuse(403, 'method_refused', `${head.method} is never sent to ${host}`);
      return;
    }
    this.#lastHead = head;
    const filled = this.#fill(head);
    if (!filled.ok) {
      this.#out.push({ kind: 'unplaced', names: filled.names, why: filled.why });
      this.#refuse(403, filled.reason, filled.why);
      return;
    }
    const unfilled = placeholdersIn(secrets, filled.forward);
    if (unfilled.length > 0) this.#out.push({ kind: 'unfilled', names: unfilled });
    const isUpgrade = head.upgrade !== undefined;
    const request = { method: head.method, isUpgrade };
    if (!this.#responses.expect(request)) {
      this.#refuse(403, 'response_unasked', 'too many requests wait for answers');
      return;
    }
    if (isUpgrade) this.#phase = 'upgrading';
    this.#used = filled.used;
    const set = this.#mayFill(head) ? this.#set : [];
    const names = [...filled.used, ...set.map(({ name }) => name)];
    this.#out.push({ kind: 'request', name: host, filled: names });
    if (filled.isWithoutCookies) this.#out.push({ kind: 'without_cookies', names: filled.used });
    const forward = withSetFields(filled.forward, set);
    this.#out.push({ kind: 'to_upstream', bytes: Buffer.from(forward, 'latin1') });
  }

  /** For a host without secrets, the request passes unchanged, and its answer needs no scrubbing. */
  #fill(head: RequestHead): FilledHead | RefusedHead {
    const isFillable = this.#mayFill(head);
    const rest = isFillable ? withoutSetFields(head, this.#set) : head;
    if (!this.#isScrubbed) return { ok: true, forward: rest.forward, used: [], isWithoutCookies: false };
    return fillHead(rest, isFillable ? this.#own : []);
  }

  /** A proxy in front of the host may answer these, and repeat the request. */
  #mayFill({ method, fields }: RequestHead): boolean {
    return method.toUpperCase() !== 'OPTIONS' && !fields.some(({ name }) => /^max-forwards$/i.test(name));
  }

  #onResponses(pieces: readonly ResponsePiece[]): void {
    for (const piece of pieces) {
      if (this.#phase === 'closed') return;
      if (piece.kind === 'bytes') this.#out.push({ kind: 'to_guest', bytes: piece.bytes });
      else if (piece.kind === 'switched') this.#phase = 'tunnel';
      else if (piece.kind === 'head') this.#onResponseHead(piece.isLast, piece.status);
      else if (piece.kind === 'refused') this.#onBadResponse(piece.reason);
      else if (this.#phase === 'refusing' && this.#responses.isComplete) this.#answer(this.#refusal);
    }
  }

  /** The upgrade was refused, so HTTP continues. */
  #onResponseHead(isLast: boolean, status: number): void {
    if (this.#phase === 'upgrading' && isLast && status !== 101) this.#phase = 'http';
  }

  #onBadResponse(reason: ResponseProblem): void {
    const why = `the answer of ${this.#options.host} cannot be passed on: ${reason}`;
    this.#report(reason, why);
    // These are refused at the head, before any of the answer was passed on.
    if (reason === 'response_encoded' || reason === 'response_partial') this.#answer(httpRefusal(502, reason, why));
    else this.#close();
  }

  #tooEarly(): void {
    this.#refuse(400, 'early', 'more data came before the answer to the upgrade request');
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
