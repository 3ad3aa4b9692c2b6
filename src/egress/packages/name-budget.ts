/**
 * Limits how many different names one sandbox may request from the indexes. A guest can encode data in names, so this
 * bounds what it can send to an index. Pure.
 */
import type { Clock } from '../../base/clock.ts';
import { PORT_LIMITS } from './limits.ts';
import { accepted, type Checked, refused } from './refusal.ts';

export class NameBudget {
  readonly #clock: Pick<Clock, 'now'>;
  readonly #known = new Set<string>();
  readonly #unknown = new Set<string>();
  #characters = 0;
  #tokens: number = PORT_LIMITS.namesBurst;
  #thenMs: number;

  constructor(clock: Pick<Clock, 'now'>) {
    this.#clock = clock;
    this.#thenMs = clock.now();
  }

  get names(): number {
    return this.#known.size;
  }

  /** Call before the index is asked. */
  take(key: string): Checked<{ readonly isNew: boolean }> {
    if (this.#known.has(key)) return accepted({ isNew: false });
    const { namesMax, nameCharactersMax, unknownNamesMax } = PORT_LIMITS;
    const { namesBurst, namesPerSecond } = PORT_LIMITS;
    if (this.#known.size >= namesMax) return tooMany(`${namesMax} different names`);
    if (this.#characters + key.length > nameCharactersMax) {
      return tooMany(`names of ${nameCharactersMax} characters`);
    }
    if (this.#unknown.size >= unknownNamesMax) {
      return tooMany(`${unknownNamesMax} names that do not exist`);
    }
    const now = this.#clock.now();
    this.#tokens = Math.min(namesBurst, this.#tokens + ((now - this.#thenMs) / 1000) * namesPerSecond);
    this.#thenMs = now;
    if (this.#tokens < 1) {
      const message = `This sandbox asks for new names too fast: more than ${namesPerSecond} per second.`;
      return refused(429, 'too_many_names', message);
    }
    this.#tokens -= 1;
    this.#known.add(key);
    this.#characters += key.length;
    return accepted({ isNew: true });
  }

  /** Call if the index does not have this name. */
  missed(key: string): void {
    this.#unknown.add(key);
  }
}

function tooMany(what: string): ReturnType<typeof refused> {
  const message = `This sandbox has asked the package indexes for ${what}, which is its limit.`;
  return refused(403, 'too_many_names', message);
}
