/**
 * Reports each fetch as an event only the first time, so that a guest can't crowd out other events by repeating one.
 */
import type { PackageFetch } from './fetch-record.ts';

/** Different events of one port; further ones only count in the metrics. */
const EVENTS_MAX = 10_000;

export class FetchLog {
  readonly #seen = new Set<string>();

  isNew({ ecosystem, name, file, outcome }: PackageFetch): boolean {
    const key = [ecosystem, name, file, outcome].join(' ');
    if (this.#seen.has(key) || this.#seen.size >= EVENTS_MAX) return false;
    this.#seen.add(key);
    return true;
  }
}
