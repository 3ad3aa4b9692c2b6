/**
 * The requests of one connection, one after another, each with its own head: bytes in, in any pieces, and
 * pieces out that are safe to pass on. Pure; the head itself is read in `http-head.ts`.
 *
 *     head ─► length: n bytes ───────────────────────┐
 *      ▲  └─► chunked: size ─► data ─► size … ─► trailer ─┤
 *      └──────────────────── end ◄───────────────────┘
 */

import { isOverride } from './fields.ts';
import {
  HEAD_BYTES_MAX,
  HEAD_FIELDS_MAX,
  type HeadProblem,
  type HttpScheme,
  isFraming,
  parseFields,
  parseHead,
  type RequestHead,
} from './head.ts';

/** `ffffffff`: chunks of up to 4 GiB, RFC 9112 section 7.1. */
const CHUNK_SIZE_CHARACTERS_MAX = 8;
const TRAILER_BYTES_MAX = 4 * 1024;

export type HttpPiece =
  | { readonly kind: 'head'; readonly head: RequestHead }
  /** Part of the body of the last head, with its chunk framing; may be a view of what was pushed. */
  | { readonly kind: 'body'; readonly bytes: Uint8Array }
  | { readonly kind: 'end' }
  /** Nothing comes after it. */
  | { readonly kind: 'refused'; readonly reason: HeadProblem };

type Phase = 'head' | 'length' | 'chunk_size' | 'chunk_data' | 'chunk_end' | 'trailer' | 'refused';

export class HttpRequestReader {
  readonly #scheme: HttpScheme;
  #phase: Phase = 'head';
  /** Complete lines of the head or trailer under way. */
  #lines: string[] = [];
  /** Of those and the partial one, with line ends. */
  #lineBytes = 0;
  #partial = '';
  #bodyBytesLeft = 0;
  #isCut = false;
  #out: HttpPiece[] = [];

  constructor(scheme: HttpScheme = 'http') {
    this.#scheme = scheme;
  }

  /** Inside a head that has begun: the only time for which a guest may be hurried. */
  get isInHead(): boolean {
    return this.#phase === 'head' && this.#lineBytes > 0;
  }

  /** Between requests: an end of the stream cuts nothing. */
  get isAtStart(): boolean {
    return this.#phase === 'head' && this.#lineBytes === 0;
  }

  /** What was refused was in the body of a request: who has its head waits for the rest. */
  get isCut(): boolean {
    return this.#isCut;
  }

  push(bytes: Uint8Array): HttpPiece[] {
    this.#out = [];
    let rest = bytes;
    while (rest.length > 0 && this.#phase !== 'refused') {
      const taken =
        this.#phase === 'length' || this.#phase === 'chunk_data'
          ? this.#takeBody(rest)
          : this.#takeLine(rest);
      rest = rest.subarray(taken);
    }
    return this.#out;
  }

  #takeBody(bytes: Uint8Array): number {
    const taken = Math.min(this.#bodyBytesLeft, bytes.length);
    this.#out.push({ kind: 'body', bytes: bytes.subarray(0, taken) });
    this.#bodyBytesLeft -= taken;
    if (this.#bodyBytesLeft > 0) return taken;
    if (this.#phase === 'length') this.#end();
    else this.#enter('chunk_end');
    return taken;
  }

  #takeLine(bytes: Uint8Array): number {
    const feed = bytes.indexOf(0x0a);
    const roomBytes = this.#lineBytesMax() - this.#lineBytes;
    const taken = feed < 0 ? bytes.length : feed + 1;
    if (taken > roomBytes) {
      this.#refuse(this.#phase === 'head' ? 'too_long' : 'chunk');
      return bytes.length;
    }
    const text = Buffer.from(bytes.buffer, bytes.byteOffset, taken).toString('latin1');
    const isBareReturn = this.#partial.endsWith('\r') && text !== '\n';
    if (isBareReturn || /\r[^\n]/.test(text)) {
      this.#refuse('line_end');
      return taken;
    }
    this.#partial += text;
    this.#lineBytes += taken;
    if (feed < 0) return taken;
    if (!this.#partial.endsWith('\r\n')) {
      this.#refuse('line_end');
      return taken;
    }
    const line = this.#partial.slice(0, -2);
    this.#partial = '';
    this.#onLine(line);
    return taken;
  }

  #lineBytesMax(): number {
    if (this.#phase === 'head') return HEAD_BYTES_MAX;
    if (this.#phase === 'trailer') return TRAILER_BYTES_MAX;
    return this.#phase === 'chunk_end' ? 2 : CHUNK_SIZE_CHARACTERS_MAX + 2;
  }

  #onLine(line: string): void {
    switch (this.#phase) {
      case 'head':
        this.#onHeadLine(line);
        return;
      case 'chunk_size': {
        if (!/^[0-9a-f]{1,8}$/i.test(line)) {
          this.#refuse('chunk');
          return;
        }
        this.#bodyBytesLeft = Number.parseInt(line, 16);
        this.#enter(this.#bodyBytesLeft === 0 ? 'trailer' : 'chunk_data');
        this.#pass(`${line}\r\n`);
        return;
      }
      case 'chunk_end':
        if (line !== '') {
          this.#refuse('chunk');
          return;
        }
        this.#enter('chunk_size');
        this.#pass('\r\n');
        return;
      case 'trailer':
        this.#onTrailerLine(line);
        return;
      default:
        return;
    }
  }

  #onHeadLine(line: string): void {
    if (line !== '' && this.#lines.length <= HEAD_FIELDS_MAX) {
      this.#lines.push(line);
      return;
    }
    if (line !== '') {
      this.#refuse('too_long');
      return;
    }
    const parsed = parseHead(this.#lines, this.#scheme);
    if (!parsed.ok) {
      this.#refuse(parsed.reason);
      return;
    }
    const { head } = parsed;
    this.#out.push({ kind: 'head', head });
    if (head.framing.kind === 'none') {
      this.#end();
      return;
    }
    if (head.framing.kind === 'length') this.#bodyBytesLeft = head.framing.bytes;
    this.#enter(head.framing.kind === 'length' ? 'length' : 'chunk_size');
  }

  #onTrailerLine(line: string): void {
    if (line !== '') {
      this.#lines.push(line);
      return;
    }
    const fields = parseFields(this.#lines);
    if (typeof fields === 'string') {
      this.#refuse(fields);
      return;
    }
    // Some servers make one of both, after what the head said was judged (RFC 9110 section 6.5.1).
    if (fields.some(({ name }) => isFraming(name) || isOverride(name))) {
      this.#refuse('chunk');
      return;
    }
    this.#pass(`${fields.map(({ name, value }) => `${name}: ${value}\r\n`).join('')}\r\n`);
    this.#end();
  }

  #pass(text: string): void {
    this.#out.push({ kind: 'body', bytes: Buffer.from(text, 'latin1') });
  }

  #end(): void {
    this.#out.push({ kind: 'end' });
    this.#enter('head');
  }

  #enter(phase: Phase): void {
    this.#phase = phase;
    this.#lines = [];
    this.#lineBytes = 0;
    this.#partial = '';
  }

  #refuse(reason: HeadProblem): void {
    this.#out.push({ kind: 'refused', reason });
    this.#isCut = this.#phase !== 'head';
    this.#enter('refused');
  }
}
