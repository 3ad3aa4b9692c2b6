/**
 * Derives a new input from a known one, by a few small changes, some of them guided by the comparisons of the last
 * runs.
 */
import { changeJson } from './json-change.ts';
import { recent } from './probe.ts';

const CHANGES_MAX = 6;
const DELTA_MAX = 35;
const INTERESTING = [0, 1, 2, 7, 8, 16, 32, 63, 64, 100, 127, 128, 255, 256, 4096, 0x7fff, 0x8000];
/** Common in text protocols. */
const TOKENS = ['\r\n', '\n', '\0', 'null', '{}', '[]', '-1', '1e400', '"', '\\u', ': ', '\u00e9'];
const WIDTHS = [1, 2, 4] as const;
const INSERT_MAX = 16;
const LONG_INSERT_MAX = 2048;

export type Random = () => number;

export class Mutator {
  readonly #random: Random;
  readonly #words: readonly Uint8Array[];
  readonly #texts: readonly string[];

  /** @param literals words of the language that the target parses */
  constructor(random: Random, literals: readonly (string | number)[] = []) {
    this.#random = random;
    this.#words = [...TOKENS, ...literals].flatMap(encodings);
    this.#texts = literals.filter((literal) => typeof literal === 'string');
  }

  below(end: number): number {
    return Math.floor(this.#random() * end);
  }

  mutate(from: Uint8Array, other: Uint8Array, maxBytes: number): Uint8Array {
    const json = this.below(4) === 0 ? changeJson(from, this.#random, this.#texts) : undefined;
    if (json !== undefined && this.below(3) > 0) return json.subarray(0, maxBytes);
    let bytes = json ?? from;
    const changes = 1 + Math.floor(this.#random() ** 2 * CHANGES_MAX);
    for (let change = 0; change < changes; change += 1) bytes = this.#change(bytes, other);
    return bytes.length > maxBytes ? bytes.subarray(0, maxBytes) : bytes;
  }

  #change(bytes: Uint8Array, other: Uint8Array): Uint8Array {
    if (bytes.length === 0) return this.#inserted(bytes, this.#noise());
    switch (this.below(13)) {
      case 0:
        return this.#with(bytes, (copy, at) => {
          copy[at] = (copy[at] ?? 0) ^ (1 << this.below(8));
        });
      case 1:
        return this.#with(bytes, (copy, at) => {
          copy[at] = this.below(256);
        });
      case 2:
        return this.#arithmetic(bytes);
      case 3:
        return this.#number(bytes, INTERESTING[this.below(INTERESTING.length)] ?? 0);
      case 4:
        return this.#erased(bytes);
      case 5:
        return this.#inserted(bytes, this.#noise());
      case 6:
        return this.#inserted(bytes, this.#piece(bytes));
      case 7:
        return this.#overwritten(bytes, this.#piece(bytes));
      case 8:
        return this.#inserted(bytes, this.#piece(other));
      case 9:
        return this.#overwritten(bytes, this.#piece(other));
      case 10:
        return this.#placed(bytes, this.#word());
      default:
        return this.#satisfied(bytes);
    }
  }

  /** Copies with `new`: `slice` of a Buffer makes no copy. */
  #with(bytes: Uint8Array, change: (copy: Uint8Array, at: number) => void): Uint8Array {
    const copy = new Uint8Array(bytes);
    change(copy, this.below(copy.length));
    return copy;
  }

  #arithmetic(bytes: Uint8Array): Uint8Array {
    const width = this.#width(bytes.length);
    const at = this.below(bytes.length - width + 1);
    const isLittle = this.below(2) === 0;
    const delta = this.below(2 * DELTA_MAX + 1) - DELTA_MAX;
    const copy = new Uint8Array(bytes);
    writeNumber(copy, at, width, isLittle, readNumber(copy, at, width, isLittle) + delta);
    return copy;
  }

  #number(bytes: Uint8Array, value: number): Uint8Array {
    const width = this.#width(bytes.length);
    const copy = new Uint8Array(bytes);
    writeNumber(copy, this.below(copy.length - width + 1), width, this.below(2) === 0, value);
    return copy;
  }

  #width(length: number): number {
    const fitting = WIDTHS.filter((width) => width <= length);
    return fitting[this.below(fitting.length)] ?? 1;
  }

  #erased(bytes: Uint8Array): Uint8Array {
    const at = this.below(bytes.length);
    const most = this.below(2) === 0 ? 4 : bytes.length;
    const count = 1 + this.below(Math.min(bytes.length - at, most));
    return joined(bytes.subarray(0, at), bytes.subarray(at + count));
  }

  #noise(): Uint8Array {
    // Now and then enough to exceed a limit.
    const most = this.below(16) === 0 ? LONG_INSERT_MAX : INSERT_MAX;
    const bytes = new Uint8Array(1 + this.below(most));
    if (this.below(2) === 0) return bytes.fill(this.below(256));
    return bytes.map(() => this.below(256));
  }

  #piece(bytes: Uint8Array): Uint8Array {
    const start = this.below(bytes.length);
    const most = this.below(2) === 0 ? 8 : bytes.length;
    return bytes.subarray(start, start + 1 + this.below(Math.min(bytes.length - start, most)));
  }

  #inserted(bytes: Uint8Array, piece: Uint8Array): Uint8Array {
    const at = this.below(bytes.length + 1);
    return joined(bytes.subarray(0, at), piece, bytes.subarray(at));
  }

  #overwritten(bytes: Uint8Array, piece: Uint8Array, at = this.below(bytes.length)): Uint8Array {
    const copy = new Uint8Array(bytes);
    copy.set(piece.subarray(0, copy.length - at), at);
    return copy;
  }

  #placed(bytes: Uint8Array, piece: Uint8Array): Uint8Array {
    return this.below(2) === 0 ? this.#inserted(bytes, piece) : this.#overwritten(bytes, piece);
  }

  #word(): Uint8Array {
    return this.#words[this.below(this.#words.length)] ?? this.#noise();
  }

  /** Replaces the seen value of a comparison by the wanted one, if the input contains it. */
  #satisfied(bytes: Uint8Array): Uint8Array {
    const index = this.below(recent.saw.length);
    let [saw, wanted] = [recent.saw[index], recent.wanted[index]];
    if (this.below(2) === 0) [saw, wanted] = [wanted, saw];
    const from = encodings(saw);
    const to = encodings(wanted);
    const which = this.below(to.length);
    const piece = to[which];
    if (piece === undefined) return this.#placed(bytes, this.#word());
    const place = this.#find(bytes, from[which]);
    if (place === undefined) return this.#placed(bytes, piece);
    const length = from[which]?.length ?? 0;
    if (typeof wanted === 'number') return this.#overwritten(bytes, piece, place);
    return joined(bytes.subarray(0, place), piece, bytes.subarray(place + length));
  }

  /** One of the places of a piece. */
  #find(bytes: Uint8Array, piece: Uint8Array | undefined): number | undefined {
    if (piece === undefined || piece.length === 0) return undefined;
    const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    const after = buffer.indexOf(piece, this.below(bytes.length));
    const place = after === -1 ? buffer.indexOf(piece) : after;
    return place === -1 ? undefined : place;
  }
}

/** Ways in which a value may be encoded in an input; for two values of one type the nth ways correspond. */
function encodings(value: unknown): readonly Uint8Array[] {
  if (typeof value === 'string') return value === '' ? [] : [Buffer.from(value, 'utf8')];
  if (typeof value !== 'number' || !Number.isSafeInteger(value)) return [];
  const made = WIDTHS.flatMap((width) =>
    [true, false].map((isLittle) => {
      const bytes = new Uint8Array(width);
      writeNumber(bytes, 0, width, isLittle, value);
      return bytes;
    }),
  );
  return [...made, Buffer.from(String(value))];
}

function readNumber(bytes: Uint8Array, at: number, width: number, isLittle: boolean): number {
  let value = 0;
  for (let index = 0; index < width; index += 1)
    value = value * 256 + (bytes[isLittle ? at + width - 1 - index : at + index] ?? 0);
  return value;
}

function writeNumber(bytes: Uint8Array, at: number, width: number, isLittle: boolean, value: number): void {
  let rest = value;
  for (let index = 0; index < width; index += 1) {
    bytes[isLittle ? at + index : at + width - 1 - index] = rest & 0xff;
    rest = Math.floor(rest / 256);
  }
}

function joined(...parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
