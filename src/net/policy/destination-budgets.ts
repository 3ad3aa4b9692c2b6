/**
 * How many bytes a sandbox may exchange with whom, by name: over all addresses of a name and all connections to it
 * that pass the gateway. Pure.
 *
 *     hello or head ─► `Meter.add(name)` ─► the budgets that the name falls under
 *     bytes, either way ─► `Meter.count` ─► each of them; no: they do not fit, so they must not be passed on
 *
 * What belongs to which request of one connection is not told apart: once a name was asked for, all that follows
 * on that connection counts for it too, and so does what came before it.
 */

export interface DestinationLimit {
  /** Canonical, or `*.` and one: all names below it together. */
  readonly name: string;
  /** Both directions. */
  readonly bytesMax: number;
}

export interface DestinationUse extends DestinationLimit {
  /** At most `bytesMax`. */
  readonly bytesUsed: number;
}

export type BytesByName = Readonly<Record<string, number>>;

/** The limits while one list replaces another: each name of both, with the larger maximum. So no usage is lost. */
export function widestLimits(
  ...lists: readonly (readonly DestinationLimit[])[]
): readonly DestinationLimit[] {
  const widest = new Map<string, DestinationLimit>();
  for (const limit of lists.flat()) {
    const known = widest.get(limit.name);
    if (known === undefined || known.bytesMax < limit.bytesMax) widest.set(limit.name, limit);
  }
  return [...widest.values()];
}

class Budget {
  readonly name: string;
  readonly bytesMax: number;
  bytesUsed: number;

  constructor({ name, bytesMax }: DestinationLimit, bytesUsed: number) {
    this.name = name;
    this.bytesMax = bytesMax;
    this.bytesUsed = Math.min(bytesUsed, bytesMax);
  }

  get isExhausted(): boolean {
    return this.bytesUsed >= this.bytesMax;
  }

  covers(host: string): boolean {
    return this.name.startsWith('*.') ? host.endsWith(this.name.slice(1)) : host === this.name;
  }
}

/** Of one sandbox. */
export class DestinationBudgets {
  readonly #onExhausted: (limit: DestinationLimit) => void;
  #budgets: readonly Budget[] = [];

  /**
   * @param used before, by names of limits
   * @param onExhausted once for each limit that is used up
   */
  constructor(
    limits: readonly DestinationLimit[],
    used: BytesByName,
    onExhausted: (limit: DestinationLimit) => void = () => undefined,
  ) {
    this.#onExhausted = onExhausted;
    this.#budgets = limits.map((limit) => new Budget(limit, used[limit.name] ?? 0));
  }

  /** What is used of a name stays used; of names that are no longer limited nothing is remembered. */
  setLimits(limits: readonly DestinationLimit[]): void {
    const used = this.#used();
    this.#budgets = limits.map((limit) => new Budget(limit, used[limit.name] ?? 0));
  }

  use(): DestinationUse[] {
    return this.#budgets.map(({ name, bytesMax, bytesUsed }) => ({ name, bytesMax, bytesUsed }));
  }

  /** @param host canonical name */
  isExhausted(host: string): boolean {
    return this.#budgets.some((budget) => budget.covers(host) && budget.isExhausted);
  }

  /** @param hosts canonical names. False: the bytes do not fit, and the budgets that they do not fit into are used up. */
  take(hosts: ReadonlySet<string>, bytes: number): boolean {
    const own = this.#budgets.filter((budget) => [...hosts].some((host) => budget.covers(host)));
    const short = own.filter(({ bytesUsed, bytesMax }) => bytesUsed + bytes > bytesMax);
    const counted = short.length > 0 ? short : own;
    for (const budget of counted) {
      const wasExhausted = budget.isExhausted;
      budget.bytesUsed = Math.min(budget.bytesMax, budget.bytesUsed + bytes);
      if (budget.isExhausted && !wasExhausted) this.#onExhausted(budget);
    }
    return short.length === 0;
  }

  #used(): BytesByName {
    return Object.fromEntries(this.#budgets.map(({ name, bytesUsed }) => [name, bytesUsed]));
  }
}

/** Names of one connection: more than any client asks for on one; then no more are let through. */
const NAMES_MAX = 64;

/** Of one connection. */
export class Meter {
  readonly #budgets: DestinationBudgets | undefined;
  readonly #hosts = new Set<string>();
  #bytes = 0;

  /** @param budgets undefined: nothing is counted */
  constructor(budgets: DestinationBudgets | undefined) {
    this.#budgets = budgets;
  }

  /** That were asked for, for people. */
  get names(): string {
    return [...this.#hosts].join(', ');
  }

  /** False: what has come on it is too much for the name. @param host canonical name; undefined: none was given */
  add(host: string | undefined): boolean {
    if (this.#budgets === undefined || host === undefined || this.#hosts.has(host)) return true;
    if (this.#hosts.size >= NAMES_MAX) return false;
    if (!this.#budgets.take(new Set([host]), this.#bytes)) return false;
    this.#hosts.add(host);
    return true;
  }

  /** False: they must not be passed on. */
  count(bytes: number): boolean {
    if (this.#budgets === undefined) return true;
    this.#bytes += bytes;
    return this.#hosts.size === 0 || this.#budgets.take(this.#hosts, bytes);
  }
}
