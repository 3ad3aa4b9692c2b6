/**
 * Arrival times of one stream's tokens in bounded memory. Counts events with text: one token each with most servers,
 * more with some. Pure.
 */
export class TokenTimes {
  readonly #bounds: readonly number[];
  readonly #askedAtMs: number;
  readonly #gaps: number[];
  #firstAtMs: number | null = null;
  #lastAtMs = 0;
  #gapSumSeconds = 0;

  /** @param askedAtMs end of the request @param bounds upper bounds of gaps, in seconds */
  constructor(askedAtMs: number, bounds: readonly number[]) {
    this.#askedAtMs = askedAtMs;
    this.#bounds = bounds;
    this.#gaps = bounds.map(() => 0).concat(0);
  }

  /** @param events that arrived together; they share the time since the previous ones */
  record(events: number, nowMs: number): void {
    if (events < 1) return;
    const isFirst = this.#firstAtMs === null;
    this.#firstAtMs ??= nowMs;
    const gaps = isFirst ? events - 1 : events;
    if (gaps > 0) {
      const seconds = isFirst ? 0 : (nowMs - this.#lastAtMs) / 1000;
      const at = this.#bounds.findIndex((bound) => seconds / gaps <= bound);
      const index = at < 0 ? this.#bounds.length : at;
      this.#gaps[index] = (this.#gaps[index] ?? 0) + gaps;
      this.#gapSumSeconds += seconds;
    }
    this.#lastAtMs = nowMs;
  }

  /** Time from the end of the request to the first token; `null` before. */
  get firstMs(): number | null {
    return this.#firstAtMs === null ? null : this.#firstAtMs - this.#askedAtMs;
  }

  get firstAtMs(): number | null {
    return this.#firstAtMs;
  }

  /** Number of gaps by bound; the last one counts those above all bounds. */
  get gaps(): readonly number[] {
    return this.#gaps;
  }

  get gapSumSeconds(): number {
    return this.#gapSumSeconds;
  }
}
