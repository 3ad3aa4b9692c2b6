/**
 * Caches values derived from texts, separately for each salt: the time to derive a value would reveal to a client
 * whether another one has sent the same text.
 */
export class SaltedCache<T> {
  readonly #make: (text: string) => T;
  readonly #sizeMax: number;
  /** Least recently used first. */
  readonly #values = new Map<string, T>();

  /** @param sizeMax number of values kept for all salts; the least recently used ones are dropped */
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
