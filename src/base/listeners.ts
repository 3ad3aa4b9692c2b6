import { tryOr } from './ignore.ts';

/** Listeners for values of one kind. A listener that throws does not stop the others. */
export class Listeners<T> {
  readonly #entries = new Set<{ readonly listener: (value: T) => void }>();

  get size(): number {
    return this.#entries.size;
  }

  /** Returns a function that removes the listener. The same function added twice is called twice. */
  listen(listener: (value: T) => void): () => void {
    const entry = { listener };
    this.#entries.add(entry);
    return () => void this.#entries.delete(entry);
  }

  /** Calls each listener in the order of arrival; one that is added meanwhile gets the next value. */
  emit(value: T): void {
    for (const entry of [...this.#entries]) {
      if (!this.#entries.has(entry)) continue;
      tryOr(undefined, 'a listener threw', () => entry.listener(value));
    }
  }

  clear(): void {
    this.#entries.clear();
  }
}
