/**
 * The answers of one connection on their way to a guest, without secrets: heads, bodies whatever their framing,
 * and what follows a change of the protocol. Pure.
 *
 *     head ─┬─ 1xx ─► head        ┌─ length ──┐
 *           ├─ 101 ─► tunnel      │           │
 *           └─ final ─────────────┼─ chunked ─┼─► head      chunks are cut anew: a secret may lie across two
 *                                 └─ to the end of the stream
 */
import type { Matcher } from './matcher.ts';
import { Scrubber } from './scrubber.ts';
import { SecretWebSocket } from './websocket.ts';

const HEAD_BYTES_MAX = 64 * 1024;
const LINE_BYTES_MAX = 4 * 1024;
/** Requests that wait for an answer. */
const PIPELINED_MAX = 256;

export interface AskedRequest {
  readonly method: string;
  /** To the WebSocket protocol. */
  readonly isUpgrade: boolean;
}

export type ResponseProblem =
  /** No HTTP/1.1 answer, or one whose end can't be told. */
  | 'response_malformed'
  | 'response_too_long'
  /** Nobody asked, or too many wait. */
  | 'response_unasked'
  /** Compressed, though it was asked for as it is. */
  | 'response_encoded'
  /** A part, though the whole was asked for. */
  | 'response_partial';

export type ResponsePiece =
  | { readonly kind: 'bytes'; readonly bytes: Buffer }
  /** The answer to the oldest request begins; of an upgrade: whether it is taken. */
  | { readonly kind: 'head'; readonly status: number; readonly isLast: boolean }
  | { readonly kind: 'switched' }
  | { readonly kind: 'end' }
  /** Nothing comes after it. */
  | { readonly kind: 'refused'; readonly reason: ResponseProblem };

type Phase =
  | 'head'
  | 'length'
  | 'chunk_size'
  | 'chunk_data'
  | 'chunk_end'
  | 'trailer'
  | 'to_end'
  | 'tunnel'
  | 'refused';

const NOTHING = Buffer.alloc(0);
const UNCHANGED: Pick<Scrubber, 'push' | 'end'> = {
  push: (bytes) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength),
  end: () => NOTHING,
};

export class SecretResponses {
  readonly #matcher: Matcher | undefined;
  readonly #asked: AskedRequest[] = [];
  #phase: Phase = 'head';
  #scrubber: Pick<Scrubber, 'push' | 'end'>;
  #frames: SecretWebSocket | undefined;
  #partial = '';
  #lines: string[] = [];
  #lineBytes = 0;
  #bytesLeft = 0;
  #out: ResponsePiece[] = [];

  /** @param matcher undefined: no secret belongs to the host, so all is passed on as it is */
  constructor(matcher: Matcher | undefined) {
    this.#matcher = matcher;
    this.#scrubber = this.#newScrubber();
  }

  /** False: too many wait. */
  expect(request: AskedRequest): boolean {
    if (this.#asked.length >= PIPELINED_MAX) return false;
    this.#asked.push(request);
    return true;
  }

  /** The last request will never be whole: no answer to it is waited for, unless it has begun. */
  withdraw(): void {
    if (this.isBetween || this.#asked.length > 1) this.#asked.pop();
  }

  /** Every request has its whole answer. */
  get isComplete(): boolean {
    return this.#asked.length === 0 && this.#phase === 'head' && this.#lineBytes === 0;
  }

  /** An answer of ours would be read as the beginning of one. */
  get isBetween(): boolean {
    return this.#phase === 'head' && this.#lineBytes === 0;
  }

  push(bytes: Uint8Array): ResponsePiece[] {
    this.#out = [];
    let rest = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    while (rest.length > 0 && this.#phase !== 'refused') rest = rest.subarray(this.#take(rest));
    return this.#out;
  }

  /** The stream has ended. */
  end(): ResponsePiece[] {
    this.#out = [];
    if (this.#phase === 'to_end') this.#pass(this.#scrubber.end());
    if (this.#phase === 'to_end' || this.#phase === 'tunnel') this.#end();
    return this.#out;
  }

  #take(bytes: Buffer): number {
    switch (this.#phase) {
      case 'length':
      case 'chunk_data':
        return this.#takeBody(bytes);
      case 'to_end':
        this.#pass(this.#scrubber.push(bytes));
        return bytes.length;
      case 'tunnel':
        this.#takeFrames(bytes);
        return bytes.length;
      default:
        return this.#takeLine(bytes);
    }
  }

  #takeFrames(bytes: Buffer): void {
    if (this.#matcher === undefined) {
      this.#pass(bytes);
      return;
    }
    this.#frames ??= new SecretWebSocket(this.#matcher);
    const pieces = this.#frames.push(bytes);
    if (pieces === undefined) this.#refuse('response_malformed');
    else for (const piece of pieces) this.#pass(piece);
  }

  #takeBody(bytes: Buffer): number {
    const taken = Math.min(this.#bytesLeft, bytes.length);
    const scrubbed = this.#scrubber.push(bytes.subarray(0, taken));
    this.#bytesLeft -= taken;
    if (this.#phase === 'chunk_data') {
      this.#passChunk(scrubbed);
      if (this.#bytesLeft === 0) this.#phase = 'chunk_end';
      return taken;
    }
    this.#pass(scrubbed);
    if (this.#bytesLeft > 0) return taken;
    this.#pass(this.#scrubber.end());
    this.#end();
    return taken;
  }

  #takeLine(bytes: Buffer): number {
    const feed = bytes.indexOf(0x0a);
    const taken = feed < 0 ? bytes.length : feed + 1;
    this.#lineBytes += taken;
    const isHead = this.#phase === 'head' || this.#phase === 'trailer';
    if (this.#lineBytes > (isHead ? HEAD_BYTES_MAX : LINE_BYTES_MAX)) {
      this.#refuse('response_too_long');
      return taken;
    }
    this.#partial += bytes.toString('latin1', 0, taken);
    if (feed < 0) return taken;
    const line = this.#partial.replace(/\r?\n$/, '');
    this.#partial = '';
    if (!isHead) this.#lineBytes = 0;
    this.#onLine(line);
    return taken;
  }

  #onLine(line: string): void {
    switch (this.#phase) {
      case 'head':
        if (line !== '') this.#lines.push(line);
        else this.#onHead();
        return;
      case 'chunk_size': {
        const size = /^([0-9a-f]{1,12})\s*(?:;|$)/i.exec(line)?.[1];
        if (size === undefined) {
          this.#refuse('response_malformed');
          return;
        }
        this.#bytesLeft = Number.parseInt(size, 16);
        if (this.#bytesLeft > 0) this.#phase = 'chunk_data';
        else {
          this.#passChunk(this.#scrubber.end());
          this.#phase = 'trailer';
        }
        return;
      }
      case 'chunk_end':
        if (line !== '') {
          this.#refuse('response_malformed');
          return;
        }
        this.#phase = 'chunk_size';
        return;
      default:
        // Trailers are dropped (RFC 9110 section 6.5.1).
        if (line !== '') return;
        this.#pass(Buffer.from('0\r\n\r\n'));
        this.#end();
    }
  }

  #onHead(): void {
    const [statusLine = '', ...fields] = this.#lines;
    this.#lines = [];
    this.#lineBytes = 0;
    const status = Number(/^HTTP\/1\.[01] (\d{3})(?: |$)/.exec(statusLine)?.[1]);
    if (!(status >= 100)) {
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
    const framing = isFinal ? framingOf(status, asked, fields, isPlain) : 'none';
    if (framing === 'malformed' || framing === 'encoded' || framing === 'partial') {
      this.#refuse(`response_${framing}`);
      return;
    }
    const head = this.#newScrubber();
    const text = Buffer.from(`${[statusLine, ...fields].join('\r\n')}\r\n\r\n`, 'latin1');
    this.#out.push({ kind: 'head', status, isLast: isFinal });
    this.#pass(head.push(text));
    this.#pass(head.end());
    if (!isFinal) return;
    this.#scrubber = this.#newScrubber();
    if (framing === 'none') this.#end();
    else if (framing === 'tunnel') {
      this.#phase = 'tunnel';
      this.#out.push({ kind: 'switched' });
    } else if (framing === 'chunked') this.#phase = 'chunk_size';
    else if (framing === 'to_end') this.#phase = 'to_end';
    else {
      this.#phase = 'length';
      this.#bytesLeft = framing;
    }
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
    this.#phase = 'head';
    this.#lineBytes = 0;
    this.#out.push({ kind: 'end' });
  }

  #refuse(reason: ResponseProblem): void {
    this.#phase = 'refused';
    this.#out.push({ kind: 'refused', reason });
  }
}

type Framing =
  | number
  | 'none'
  | 'chunked'
  | 'to_end'
  | 'tunnel'
  | 'encoded'
  | 'partial'
  | 'malformed';

/** RFC 9112 section 6.3; of a final answer. @param isPlain also if no secret could be found in it */
function framingOf(
  status: number,
  asked: AskedRequest,
  fields: readonly string[],
  isPlain: boolean,
): Framing {
  if (fields.some((field) => !/^[^\s:]+:/.test(field))) return 'malformed';
  const valuesOf = (name: string): string[] =>
    fields.flatMap((field) => {
      const colon = field.indexOf(':');
      return field.slice(0, colon).toLowerCase() === name
        ? [
            field
              .slice(colon + 1)
              .trim()
              .toLowerCase(),
          ]
        : [];
    });
  if (status === 101) {
    const protocols = valuesOf('upgrade');
    const isAgreed = asked.isUpgrade && protocols.length === 1 && protocols[0] === 'websocket';
    return isAgreed ? 'tunnel' : 'malformed';
  }
  if (asked.method === 'HEAD' || status === 204 || status === 304) return 'none';
  if (status === 206 && !isPlain) return 'partial';
  const codings = valuesOf('transfer-encoding');
  const lengths = valuesOf('content-length');
  const isEncoded = valuesOf('content-encoding').some((coding) => coding !== 'identity');
  if (isEncoded && !isPlain) return 'encoded';
  if (codings.length > 0) {
    const isChunked = codings.length === 1 && codings[0] === 'chunked' && lengths.length === 0;
    return isChunked ? 'chunked' : 'malformed';
  }
  if (lengths.length === 0) return 'to_end';
  const isOne = lengths.length === 1 && /^\d{1,15}$/.test(lengths[0] ?? '');
  if (!isOne) return 'malformed';
  return Number(lengths[0]) === 0 ? 'none' : Number(lengths[0]);
}
