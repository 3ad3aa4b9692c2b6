/**
 * Frames the messages of one direction of an HTTP/1.1 connection (RFC 9112 sections 2.2, 6 and 7.1): bytes in, in any
 * pieces, and frames out. Pure and bounded.
 *
 *     head ─► `readBody` ─┬─ length or until_close ─► data … ──────────────────────────────────────┐
 *      ▲                  └─ chunked ─► chunk ─► data … ─► chunk_end ─► … ─► chunk of 0 ─► trailer ─┤
 *      └──────────────────────────────────── end ◄─────────────────────────────────────────────────┘
 *
 * The framer does not interpret heads: after each one, the caller says how its body is framed. Without `readBody` the
 * message has no body, no `end` follows, and the next bytes are the next head. The result never depends on how the
 * input is cut.
 */

export interface FramerRules {
  /** If true, lines end in CRLF, and a bare CR or LF is refused. Otherwise a bare LF also ends a line. */
  readonly isStrict: boolean;
  readonly headBytesMax: number;
  /** Includes the first line. */
  readonly headLinesMax: number;
  readonly chunkLineBytesMax: number;
  /** Limit of the line after a chunk's data. */
  readonly chunkEndBytesMax: number;
  readonly trailerBytesMax: number;
  /** Its first group is the size in hex. */
  readonly chunkLine: RegExp;
}

export type BodyFraming =
  | { readonly kind: 'none' }
  | { readonly kind: 'length'; readonly bytes: number }
  | { readonly kind: 'chunked' }
  | { readonly kind: 'until_close' };

type FramerProblem = 'too_long' | 'line_end' | 'chunk';

export type HttpFrame =
  /** Lines without their ends; latin1 text. */
  | { readonly kind: 'head'; readonly lines: readonly string[] }
  /** @param bytes of the data that follows; 0 means that the trailer follows */
  | { readonly kind: 'chunk'; readonly line: string; readonly bytes: number }
  /** May be a view of the input. */
  | { readonly kind: 'data'; readonly bytes: Uint8Array }
  | { readonly kind: 'chunk_end' }
  | { readonly kind: 'trailer'; readonly lines: readonly string[] }
  | { readonly kind: 'end' }
  /** Nothing follows it. */
  | { readonly kind: 'refused'; readonly reason: FramerProblem; readonly isInHead: boolean };

type Phase = 'head' | 'data' | 'chunk_line' | 'chunk_data' | 'chunk_end' | 'trailer' | 'stopped';

const LINE_FEED = 0x0a;

export class HttpFramer {
  readonly #rules: FramerRules;
  #phase: Phase = 'head';
  /** Complete lines of the unfinished head or trailer. */
  #lines: string[] = [];
  #partial = '';
  /** Bytes received in this phase, including line ends. */
  #phaseBytes = 0;
  #dataBytesLeft = 0;

  constructor(rules: FramerRules) {
    this.#rules = rules;
  }

  /** True between messages, where an end of the stream truncates nothing. */
  get isAtStart(): boolean {
    return this.#phase === 'head' && this.#phaseBytes === 0;
  }

  get isInHead(): boolean {
    return this.#phase === 'head' && this.#phaseBytes > 0;
  }

  /** Call on a `head` frame, before the next frame is taken. */
  readBody(framing: BodyFraming): void {
    if (framing.kind === 'none') return;
    this.#enter(framing.kind === 'chunked' ? 'chunk_line' : 'data');
    if (framing.kind === 'length') this.#dataBytesLeft = framing.bytes;
    if (framing.kind === 'until_close') this.#dataBytesLeft = Number.POSITIVE_INFINITY;
  }

  stop(): void {
    this.#enter('stopped');
  }

  /** Call at the end of the stream, which ends a body framed `until_close`. Yields no frame. */
  end(): void {
    if (this.#dataBytesLeft === Number.POSITIVE_INFINITY) this.#enter('head');
  }

  *frames(bytes: Uint8Array): Generator<HttpFrame, void, void> {
    let rest = bytes;
    while (rest.length > 0 && this.#phase !== 'stopped') {
      const isData = this.#phase === 'data' || this.#phase === 'chunk_data';
      const part = isData ? rest.subarray(0, this.#dataBytesLeft) : upToLineEnd(rest);
      rest = rest.subarray(part.length);
      if (isData) yield* this.#onData(part);
      else yield* this.#onLineBytes(part);
    }
  }

  *#onData(bytes: Uint8Array): Generator<HttpFrame, void, void> {
    this.#dataBytesLeft -= bytes.length;
    const isWhole = this.#dataBytesLeft === 0;
    const isChunk = this.#phase === 'chunk_data';
    if (isWhole) this.#enter(isChunk ? 'chunk_end' : 'head');
    yield { kind: 'data', bytes };
    if (isWhole && !isChunk) yield { kind: 'end' };
  }

  /** @param bytes of one line, up to its end at most */
  *#onLineBytes(bytes: Uint8Array): Generator<HttpFrame, void, void> {
    const roomBytes = this.#phaseBytesMax() - this.#phaseBytes;
    const takenBytes = Math.min(bytes.length, roomBytes);
    const text = Buffer.from(bytes.buffer, bytes.byteOffset, takenBytes).toString('latin1');
    // Checked before the length, so that what is refused does not depend on how the input is cut.
    const isBareReturn = /\r[^\n]/.test(this.#partial.slice(-1) + text);
    if (this.#rules.isStrict && isBareReturn) {
      yield this.#refuse('line_end');
      return;
    }
    if (bytes.length > roomBytes) {
      yield this.#refuse('too_long');
      return;
    }
    this.#partial += text;
    this.#phaseBytes += bytes.length;
    if (bytes.at(-1) !== LINE_FEED) return;
    const isCrlf = this.#partial.endsWith('\r\n');
    if (this.#rules.isStrict && !isCrlf) {
      yield this.#refuse('line_end');
      return;
    }
    const line = this.#partial.slice(0, isCrlf ? -2 : -1);
    this.#partial = '';
    yield* this.#onLine(line);
  }

  *#onLine(line: string): Generator<HttpFrame, void, void> {
    if (this.#phase === 'chunk_line') {
      const size = this.#rules.chunkLine.exec(line)?.[1];
      if (size === undefined) {
        yield this.#refuse('chunk');
        return;
      }
      const bytes = Number.parseInt(size, 16);
      this.#enter(bytes === 0 ? 'trailer' : 'chunk_data');
      this.#dataBytesLeft = bytes;
      yield { kind: 'chunk', line, bytes };
    } else if (this.#phase === 'chunk_end') {
      if (line !== '') {
        yield this.#refuse('chunk');
        return;
      }
      this.#enter('chunk_line');
      yield { kind: 'chunk_end' };
    } else if (line !== '') {
      const isFull = this.#phase === 'head' && this.#lines.length >= this.#rules.headLinesMax;
      if (isFull) yield this.#refuse('too_long');
      else this.#lines.push(line);
    } else {
      const lines = this.#lines;
      const isHead = this.#phase === 'head';
      this.#enter('head');
      yield { kind: isHead ? 'head' : 'trailer', lines };
      if (!isHead && this.#phase === 'head') yield { kind: 'end' };
    }
  }

  #phaseBytesMax(): number {
    const { headBytesMax, chunkLineBytesMax, chunkEndBytesMax, trailerBytesMax } = this.#rules;
    if (this.#phase === 'head') return headBytesMax;
    if (this.#phase === 'trailer') return trailerBytesMax;
    return this.#phase === 'chunk_end' ? chunkEndBytesMax : chunkLineBytesMax;
  }

  #enter(phase: Phase): void {
    this.#phase = phase;
    this.#lines = [];
    this.#partial = '';
    this.#phaseBytes = 0;
    this.#dataBytesLeft = 0;
  }

  #refuse(reason: FramerProblem): HttpFrame {
    const isInHead = this.#phase === 'head';
    this.stop();
    return { kind: 'refused', reason, isInHead };
  }
}

function upToLineEnd(bytes: Uint8Array): Uint8Array {
  const feed = bytes.indexOf(LINE_FEED);
  return feed < 0 ? bytes : bytes.subarray(0, feed + 1);
}
