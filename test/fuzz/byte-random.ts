/** The random numbers of a generator, taken from given bytes: as few as each number needs. */
import fc from 'fast-check';

/** Numbers after the end that are the smallest possible; a generator that waits for another one then gets noise. */
const ZEROS_MAX = 2000;
const NO_SOURCE = { clone: () => NO_SOURCE, next: () => 0 } as unknown as ConstructorParameters<typeof fc.Random>[0];

export class ByteRandom extends fc.Random {
  readonly #bytes: Uint8Array;
  #at: number;

  constructor(bytes: Uint8Array, at = 0) {
    super(NO_SOURCE);
    this.#bytes = bytes;
    this.#at = at;
  }

  override clone(): ByteRandom {
    return new ByteRandom(this.#bytes, this.#at);
  }

  override next(bits: number): number {
    return this.#take(2 ** bits - 1);
  }

  override nextBoolean(): boolean {
    return this.#take(1) === 1;
  }

  override nextInt(min = -(2 ** 31), max = 2 ** 31 - 1): number {
    return min + this.#take(max - min);
  }

  override nextBigInt(min: bigint, max: bigint): bigint {
    const span = max - min;
    let value = 0n;
    for (let rest = span; rest > 0n; rest >>= 32n) value = (value << 32n) | BigInt(this.#take(2 ** 32 - 1));
    return min + (value % (span + 1n));
  }

  override nextDouble(): number {
    return this.#take(2 ** 32 - 1) / 2 ** 32;
  }

  override getState(): undefined {
    return undefined;
  }

  /** A number from 0 to `span`. */
  #take(span: number): number {
    let value = 0;
    for (let rest = span; rest >= 1; rest /= 256) value = value * 256 + this.#byte();
    return value % (span + 1);
  }

  #byte(): number {
    const at = this.#at;
    this.#at += 1;
    const past = at - this.#bytes.length;
    if (past < 0) return this.#bytes[at] as number;
    return past < ZEROS_MAX ? 0 : Math.imul(past, 0x9e3779b1) >>> 24;
  }
}
