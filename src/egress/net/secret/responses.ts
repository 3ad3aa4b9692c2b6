/**
 * Removes secrets from the answers of one connection on their way to a guest: from heads, bodies of any framing, and
 * WebSocket frames. Pure.
 *
 *     head ─┬─ 1xx ─► head        ┌─ length ──┐
 *           ├─ 101 ─► tunnel      │           │
 *           └─ final ─────────────┼─ chunked ─┼─► head      chunks are cut again: a secret may span two
 *                                 └─ to the end of the stream
 */
import { type BodyFraming, type HttpFrame, HttpFramer } from '../http/framer.ts';
import { fieldValues, isBodiless, parseStatus, RESPONSE_RULES, responseFraming } from '../http/response-head.ts';
import type { Matcher } from './matcher.ts';
import { Scrubber } from './scrubber.ts';
import { SecretWebSocket } from './websocket.ts';

const PIPELINED_MAX = 256;

interface AskedRequest {
  readonly method: string;
  readonly isUpgrade: boolean;
}

export type ResponseProblem =
  /** Not an HTTP/1.1 answer, or one without a findable end. */
  | 'response_malformed'
  | 'response_too_long'
  /** No request waits for it, or too many do. */
  | 'response_unasked'
  /** Compressed, although the request did not accept that. */
  | 'response_encoded'
  /** Partial, although the whole was requested. */
  | 'response_partial';

export type ResponsePiece =
  | { readonly kind: 'bytes'; readonly bytes: Buffer }
  | { readonly kind: 'head'; readonly status: number; readonly isLast: boolean }
  | { readonly kind: 'switched' }
  | { readonly kind: 'end' }
  /** Nothing follows it. */
  | { readonly kind: 'refused'; readonly reason: ResponseProblem };

const NOTHING = Buffer.alloc(0);
const NO_BODY: BodyFraming = { kind: 'none' };
const UNCHANGED: Pick<Scrubber, 'push' | 'end'> = {
  push: (bytes) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength),
  end: () => NOTHING,
};

export class SecretResponses {
  readonly #matcher: Matcher | undefined;
  readonly #asked: AskedRequest[] = [];
  readonly #framer = new HttpFramer(RESPONSE_RULES);
  #body: BodyFraming['kind'] | 'tunnel' = 'none';
  #scrubber: Pick<Scrubber, 'push' | 'end'>;
  #frames: SecretWebSocket | undefined;
  #out: ResponsePiece[] = [];

  /** @param matcher undefined if the host has no secrets, so that everything passes unchanged */
  constructor(matcher: Matcher | undefined) {
    this.#matcher = matcher;
    this.#scrubber = this.#newScrubber();
  }

  /** Returns false if too many requests wait. */
  expect(request: AskedRequest): boolean {
    if (this.#asked.length >= PIPELINED_MAX) return false;
    this.#asked.push(request);
    return true;
  }

  /** Call if the last request will stay incomplete: expects no answer to it, unless that has begun. */
  withdraw(): void {
    if (this.isBetween || this.#asked.length > 1) this.#asked.pop();
  }

  /** True if every request has its whole answer. */
  get isComplete(): boolean {
    return this.#asked.length === 0 && this.isBetween;
  }

  /** True outside of answers, so that one of ours can follow. */
  get isBetween(): boolean {
    return this.#framer.isAtStart;
  }

  push(bytes: Uint8Array): ResponsePiece[] {
    this.#out = [];
    for (const frame of this.#framer.frames(bytes)) this.#onFrame(frame);
    return this.#out;
  }

  end(): ResponsePiece[] {
    this.#out = [];
    if (this.#body === 'until_close') this.#pass(this.#scrubber.end());
    if (this.#body === 'until_close' || this.#body === 'tunnel') this.#end();
    this.#framer.end();
    return this.#out;
  }

  #onFrame(frame: HttpFrame): void {
    switch (frame.kind) {
      case 'head':
        this.#onHead(frame.lines);
        return;
      case 'data':
        this.#onData(Buffer.from(frame.bytes.buffer, frame.bytes.byteOffset, frame.bytes.length));
        return;
      case 'chunk':
        if (frame.bytes === 0) this.#passChunk(this.#scrubber.end());
        return;
      case 'trailer':
        // The trailer is dropped (RFC 9110 section 6.5.1).
        this.#pass(Buffer.from('0\r\n\r\n'));
        return;
      case 'end':
        if (this.#body === 'length') this.#pass(this.#scrubber.end());
        this.#end();
        return;
      case 'refused':
        this.#refuse(frame.reason === 'too_long' ? 'response_too_long' : 'response_malformed');
        return;
      case 'chunk_end':
    }
  }

  #onData(bytes: Buffer): void {
    if (this.#body === 'tunnel') this.#takeFrames(bytes);
    else if (this.#body === 'chunked') this.#passChunk(this.#scrubber.push(bytes));
    else this.#pass(this.#scrubber.push(bytes));
  }

  #takeFrames(bytes: Buffer): void {
    if (this.#matcher === undefined) {
      this.#pass(bytes);
      return;
    }
    this.#frames ??= new SecretWebSocket(this.#matcher);
    const { pieces, isBroken } = this.#frames.push(bytes);
    for (const piece of pieces) this.#pass(piece);
    if (isBroken) this.#refuse('response_malformed');
  }

  #onHead([statusLine = '', ...fields]: readonly string[]): void {
    const status = parseStatus(statusLine);
    if (status === undefined) {
      this.#refuse('response_malformed');
      return;
    }
    const [asked] = this.#asked;
    if (asked === undefined) {
      this.#refuse('response_unasked');
      return;
    }
    const isFinal = status >= 200 || status === 101;
    const isPlain = this.#matcher === undefined;
    const body = isFinal ? bodyOf(status, asked, fields, isPlain) : NO_BODY;
    if (typeof body === 'string') {
      this.#refuse(body);
      return;
    }
    const head = this.#newScrubber();
    const text = Buffer.from(`${[statusLine, ...fields].join('\r\n')}\r\n\r\n`, 'latin1');
    this.#out.push({ kind: 'head', status, isLast: isFinal });
    this.#pass(head.push(text));
    this.#pass(head.end());
    if (!isFinal) return;
    this.#scrubber = this.#newScrubber();
    this.#body = body.kind;
    if (body.kind === 'none') this.#end();
    else this.#framer.readBody(body.kind === 'tunnel' ? { kind: 'until_close' } : body);
    if (body.kind === 'tunnel') this.#out.push({ kind: 'switched' });
  }

  #newScrubber(): Pick<Scrubber, 'push' | 'end'> {
    return this.#matcher === undefined ? UNCHANGED : new Scrubber(this.#matcher);
  }

  #pass(bytes: Buffer): void {
    if (bytes.length > 0) this.#out.push({ kind: 'bytes', bytes });
  }

  #passChunk(bytes: Buffer): void {
    if (bytes.length === 0) return;
    this.#pass(Buffer.from(`${bytes.length.toString(16)}\r\n`));
    this.#pass(bytes);
    this.#pass(Buffer.from('\r\n'));
  }

  #end(): void {
    this.#asked.shift();
    this.#body = 'none';
    this.#out.push({ kind: 'end' });
  }

  #refuse(reason: ResponseProblem): void {
    this.#body = 'none';
    this.#framer.stop();
    this.#out.push({ kind: 'refused', reason });
  }
}

type Body = BodyFraming | { readonly kind: 'tunnel' };

/** The body of a final answer. @param isPlain accept answers in which secrets can't be found */
function bodyOf(
  status: number,
  asked: AskedRequest,
  fields: readonly string[],
  isPlain: boolean,
): Body | ResponseProblem {
  if (fields.some((field) => !/^[^\s:]+:/.test(field))) return 'response_malformed';
  if (status === 101) {
    const protocols = fieldValues(fields, 'upgrade');
    const isAgreed = asked.isUpgrade && protocols.length === 1 && protocols[0] === 'websocket';
    return isAgreed ? { kind: 'tunnel' } : 'response_malformed';
  }
  const framing = responseFraming(status, asked.method, fields);
  if (!isPlain && !isBodiless(status, asked.method)) {
    if (status === 206) return 'response_partial';
    const encodings = fieldValues(fields, 'content-encoding');
    if (encodings.some((coding) => coding !== 'identity')) return 'response_encoded';
  }
  return framing ?? 'response_malformed';
}
