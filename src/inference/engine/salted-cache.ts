/**
 * The values last made from texts, apart for each salt: the time that a value takes to make would tell a client
 * whether another has sent the same text.
 */
export class SaltedCache<T> {
  readonly #make: (text: string) => T;
  readonly #sizeMax: number;
  /** Least recently used first. */
  readonly #values = new Map<string, T>();

  /** @param sizeMax values kept, of all salts together; the least recently used ones are dropped */
  constructor(sizeMax: number, make: (text: string) => T) {
    this.#sizeMax = sizeMax;
    this.#make = make;
  }

  get(salt: string, text: string): T {
    const key = JSON.stringify([salt, text]);
    const value = this.#values.get(key) ?? this.#make(text);
    this.#values.delete(key);
    this.#values.set(key, value);
    const [oldest] = this.#values.keys();
    if (this.#values.size > this.#sizeMax && oldest !== undefined) this.#values.delete(oldest);
    return value;
  }
}
