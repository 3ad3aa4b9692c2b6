/**
 * Sums counters whose sources come and go. Counts of a source stay in the sum when it is gone; a source that restarts
 * at zero adds to its earlier counts. Pure.
 */
export class Totals {
  readonly #sums = new Map<string, number>();
  readonly #last = new WeakMap<object, Readonly<Record<string, number>>>();

  /** @param values counts of `source` since its start, by name */
  note(source: object, values: Readonly<Record<string, number>>): void {
    const last = this.#last.get(source) ?? {};
    for (const [name, value] of Object.entries(values)) {
      const before = last[name] ?? 0;
      const more = value >= before ? value - before : value;
      this.#sums.set(name, this.get(name) + (Number.isFinite(more) ? more : 0));
    }
    this.#last.set(source, { ...last, ...values });
  }

  get(name: string): number {
    return this.#sums.get(name) ?? 0;
  }

  names(): readonly string[] {
    return [...this.#sums.keys()];
  }
}
