/**
 * Removes secrets from a stream: bytes in, in any pieces, and the same number of bytes out. Pure.
 *
 *     … x-api-key: sk-live-…  ──►  … x-api-key: NV_SECRET_…        leftmost first, the longest of several
 *
 * Held-back bytes must reveal nothing about a secret: a guest that could confirm its beginning could guess the rest. So
 * the visible characters at the end are held back, whatever they are, up to the length of the longest match. A space or
 * line end releases everything before it, so server-sent events are not delayed.
 */
import { type Edge, type Matcher, MatchState, type Pattern, startOf } from './matcher.ts';
import { isVisible } from './spelling.ts';

/** Offsets in the held bytes. */
interface Found {
  readonly pattern: Pattern;
  readonly start: number;
  readonly end: number;
}

interface Change {
  readonly start: number;
  readonly end: number;
  readonly put: Buffer;
}

const STANDARD = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
const FOR_URLS = STANDARD.replace('+/', '-_');
const FILL = '*';

export class Scrubber {
  readonly #matcher: Matcher;
  #state = new MatchState();
  #held: Buffer = Buffer.alloc(0);
  #found: Found[] = [];
  /** The rest of a replacement whose beginning was sent: the first held bytes, already replaced. */
  #begun: Buffer = Buffer.alloc(0);

  constructor(matcher: Matcher) {
    this.#matcher = matcher;
  }

  /** May return a view of the input. */
  push(bytes: Uint8Array): Buffer {
    const fresh = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const all = this.#held.length === 0 ? fresh : Buffer.concat([this.#held, fresh]);
    this.#matcher.scan(this.#state, all, this.#held.length, (pattern, end) =>
      this.#found.push({ pattern, start: startOf(all, end, pattern.find), end }),
    );
    return this.#decide(all, this.#heldFrom(all));
  }

  end(): Buffer {
    const out = this.#decide(this.#held, this.#held.length);
    this.#state = new MatchState();
    return out;
  }

  /** Depends only on kinds of characters and lengths. */
  #heldFrom(bytes: Buffer): number {
    const first = Math.max(0, bytes.length - this.#matcher.bytesMax);
    let from = bytes.length;
    while (from > first && isVisible(bytes[from - 1] ?? 0)) from -= 1;
    return from;
  }

  /** @param until bytes before it are sent: a match that begins there has ended, so no longer one can follow */
  #decide(bytes: Buffer, until: number): Buffer {
    const changes = this.#found.map((found) => changeOf(bytes, found));
    const decided = changes.filter(({ start }) => start < until).toSorted((a, b) => a.start - b.start || b.end - a.end);
    const isChanged = decided.length > 0 || this.#begun.length > 0;
    const out = isChanged ? Buffer.from(bytes) : bytes;
    this.#begun.copy(out);
    let covered = this.#begun.length;
    for (const { start, end, put } of decided) {
      if (start >= covered) put.copy(out, start);
      // Overlapping matches: masks the rest of the second.
      else if (end > covered) out.fill(FILL, covered, end);
      covered = Math.max(covered, end);
    }
    this.#found = this.#found
      .filter((_, index) => (changes[index]?.start ?? 0) >= until)
      .map(({ pattern, start, end }) => ({ pattern, start: start - until, end: end - until }));
    this.#begun = Buffer.from(out.subarray(until, Math.max(until, covered)));
    this.#held = Buffer.from(bytes.subarray(until));
    return out.subarray(0, until);
  }
}

function changeOf(bytes: Buffer, { pattern, start, end }: Found): Change {
  const { put, before, after, alphabet } = pattern;
  const digits = alphabet === 'base64url' ? FOR_URLS : STANDARD;
  const first = edgeOf(bytes[start - 1], before, digits);
  const last = edgeOf(bytes[end], after, digits);
  const length = end - start;
  const text = `${first}${put.padEnd(length, FILL).slice(0, length)}${last}`;
  return { start: start - first.length, end: end + last.length, put: Buffer.from(text, 'latin1') };
}

/** Changes only the bits of a secret. Empty if there is no such character. */
function edgeOf(code: number | undefined, edge: Edge | undefined, digits: string): string {
  if (code === undefined || edge === undefined) return '';
  const character = String.fromCharCode(code);
  const digit = Math.max(STANDARD.indexOf(character), FOR_URLS.indexOf(character));
  return digit < 0 ? '' : digits.charAt((digit & ~edge.mask) | edge.bits);
}
