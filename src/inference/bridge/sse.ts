/**
 * Splits server-sent events as bytes (WHATWG HTML section 9.2) into whole events without changing a byte. Lines end
 * with LF, CRLF or CR; an empty line ends an event. Performs no I/O.
 */
export interface SsePiece {
  readonly bytes: Buffer;
  readonly kind: /** A whole event with the empty line that ends it. */
    | 'event'
    /** Part of an event that is larger than the limit. */
    | 'part'
    /** The LF of a CRLF whose CR ended the previous event. */
    | 'ending';
}

const LF = 0x0a;
const CR = 0x0d;

export class SseSplitter {
  readonly #eventBytesMax: number;
  #held: Buffer[] = [];
  #heldBytes = 0;
  #oversized: boolean = false;
  #lineEmpty: boolean = true;
  #afterCr = false;

  constructor(eventBytesMax: number) {
    this.#eventBytesMax = eventBytesMax;
  }

  /** True if the returned bytes end with a whole event, so that another may follow. */
  get atBoundary(): boolean {
    return !this.#oversized;
  }

  /**
   * Returns pieces in order; all pieces and the rest, joined, equal the input. A CR ends an event immediately, since an
   * LF may or may not follow.
   */
  push(chunk: Buffer): SsePiece[] {
    const out: SsePiece[] = [];
    let start = 0;
    for (let i = 0; i < chunk.length; i += 1) {
      const byte = chunk[i];
      if (byte === LF && this.#afterCr) {
        // Second half of a CRLF: the line ended at its CR.
        this.#afterCr = false;
        if (this.#isEmpty && i === start) {
          out.push({ bytes: chunk.subarray(i, i + 1), kind: 'ending' });
          start = i + 1;
        }
        continue;
      }
      this.#afterCr = byte === CR;
      if (byte !== LF && byte !== CR) {
        this.#lineEmpty = false;
        continue;
      }
      if (this.#lineEmpty) {
        out.push(this.#take(chunk.subarray(start, i + 1)));
        start = i + 1;
      }
      this.#lineEmpty = true;
    }
    this.#hold(chunk.subarray(start), out);
    return out;
  }

  rest(): Buffer {
    const rest = Buffer.concat(this.#held);
    this.#held = [];
    this.#heldBytes = 0;
    return rest;
  }

  get #isEmpty(): boolean {
    return this.#heldBytes === 0 && !this.#oversized;
  }

  #take(end: Buffer): SsePiece {
    const bytes = this.#held.length === 0 ? end : Buffer.concat([...this.#held, end]);
    const whole = !this.#oversized && bytes.length <= this.#eventBytesMax;
    this.#held = [];
    this.#heldBytes = 0;
    this.#oversized = false;
    return { bytes, kind: whole ? 'event' : 'part' };
  }

  #hold(bytes: Buffer, out: SsePiece[]): void {
    if (bytes.length === 0) return;
    this.#held.push(bytes);
    this.#heldBytes += bytes.length;
    if (!this.#oversized && this.#heldBytes <= this.#eventBytesMax) return;
    this.#oversized = true;
    out.push({ bytes: this.rest(), kind: 'part' });
  }
}

/** The `data` field of an event; undefined if it has none, e.g. in a comment. */
export function eventData(event: Buffer): string | undefined {
  const raw = event.toString('utf8');
  // A stream may begin with a byte order mark, which is not part of its first line.
  const text = raw.startsWith('\ufeff') ? raw.slice(1) : raw;
  // Nearly every event of a model is one line.
  if (text.startsWith('data: ') && text.indexOf('\n') === text.length - 2 && !text.includes('\r')) {
    return text.slice(6, -2);
  }
  const lines: string[] = [];
  for (const line of text.split(/\r\n|\n|\r/)) {
    if (line === 'data') lines.push('');
    else if (line.startsWith('data:')) lines.push(line.slice(line[5] === ' ' ? 6 : 5));
  }
  return lines.length === 0 ? undefined : lines.join('\n');
}
