/**
 * Reads the requests of one connection: bytes in, in any pieces, and pieces out that are safe to pass on. Pure;
 * `head.ts` parses heads.
 */

import { isOverride } from './fields.ts';
import { type FramerRules, type HttpFrame, HttpFramer } from './framer.ts';
import {
  type Field,
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
export const REQUEST_RULES: FramerRules = {
  isStrict: true,
  headBytesMax: HEAD_BYTES_MAX,
  headLinesMax: HEAD_FIELDS_MAX + 1,
  chunkLineBytesMax: CHUNK_SIZE_CHARACTERS_MAX + 2,
  chunkEndBytesMax: 2,
  trailerBytesMax: 4 * 1024,
  chunkLine: /^([0-9a-f]{1,8})$/i,
};

export type HttpPiece =
  | { readonly kind: 'head'; readonly head: RequestHead }
  /** Part of the body of the last head, with its chunk framing; may be a view of the input. */
  | {
      readonly kind: 'body';
      readonly bytes: Uint8Array;
      /** The fields in these bytes, if they are a trailer. */
      readonly trailer?: readonly Field[];
    }
  | { readonly kind: 'end' }
  /** Nothing follows it. */
  | { readonly kind: 'refused'; readonly reason: HeadProblem };

export class HttpRequestReader {
  readonly #scheme: HttpScheme;
  readonly #framer = new HttpFramer(REQUEST_RULES);
  #isCut = false;
  #out: HttpPiece[] = [];

  constructor(scheme: HttpScheme = 'http') {
    this.#scheme = scheme;
  }

  /** True within a head, so that the guest may be held to a deadline for the rest. */
  get isInHead(): boolean {
    return this.#framer.isInHead;
  }

  /** True between requests, where an end of the stream truncates nothing. */
  get isAtStart(): boolean {
    return this.#framer.isAtStart;
  }

  /**
   * True if the refusal was in the body of a request whose head was passed on, so that its upstream waits for the rest.
   */
  get isCut(): boolean {
    return this.#isCut;
  }

  push(bytes: Uint8Array): HttpPiece[] {
    this.#out = [];
    for (const frame of this.#framer.frames(bytes)) this.#onFrame(frame);
    return this.#out;
  }

  #onFrame(frame: HttpFrame): void {
    switch (frame.kind) {
      case 'head':
        this.#onHead(frame.lines);
        return;
      case 'chunk':
        this.#pass(`${frame.line}\r\n`);
        return;
      case 'data':
        this.#out.push({ kind: 'body', bytes: frame.bytes });
        return;
      case 'chunk_end':
        this.#pass('\r\n');
        return;
      case 'trailer':
        this.#onTrailer(frame.lines);
        return;
      case 'end':
        this.#out.push(frame);
        return;
      case 'refused': {
        const isLongLine = frame.reason === 'too_long' && !frame.isInHead;
        this.#refuse(isLongLine ? 'chunk' : frame.reason, !frame.isInHead);
      }
    }
  }

  #onHead(lines: readonly string[]): void {
    const parsed = parseHead(lines, this.#scheme);
    if (!parsed.ok) {
      this.#refuse(parsed.reason, false);
      return;
    }
    const { head } = parsed;
    this.#out.push({ kind: 'head', head });
    if (head.framing.kind === 'none') this.#out.push({ kind: 'end' });
    else this.#framer.readBody(head.framing);
  }

  #onTrailer(lines: readonly string[]): void {
    const fields = parseFields(lines);
    if (typeof fields === 'string') {
      this.#refuse(fields, true);
      return;
    }
    // Some servers merge a trailer into the head, which was judged without it (RFC 9110 section 6.5.1).
    if (fields.some(({ name }) => isFraming(name) || isOverride(name))) {
      this.#refuse('chunk', true);
      return;
    }
    const text = fields.map(({ name, value }) => `${name}: ${value}\r\n`).join('');
    this.#out.push({ kind: 'body', bytes: Buffer.from(`${text}\r\n`, 'latin1'), trailer: fields });
  }

  #pass(text: string): void {
    this.#out.push({ kind: 'body', bytes: Buffer.from(text, 'latin1') });
  }

  #refuse(reason: HeadProblem, isCut: boolean): void {
    this.#out.push({ kind: 'refused', reason });
    this.#isCut = isCut;
    this.#framer.stop();
  }
}
