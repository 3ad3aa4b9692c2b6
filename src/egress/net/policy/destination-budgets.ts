/**
 * Byte budgets of a sandbox by name: over all addresses of a name, and all connections to it through the gateway. Pure.
 *
 *     hello or head ─► `Meter.add(name)` ─► the budgets that cover the name
 *     bytes, either way ─► `Meter.count` ─► each of these; false: the bytes do not fit, and must not be passed on
 *
 * Bytes are counted per connection, not per request: once a connection has asked for a name, all its bytes count
 * for that name, including earlier ones.
 */

export interface DestinationLimit {
  /** Canonical. A leading `*.` covers all names below it together. */
  readonly name: string;
  readonly bytesMax: number;
}

export interface DestinationUse extends DestinationLimit {
  readonly bytesUsed: number;
}

export type BytesByName = Readonly<Record<string, number>>;

/**
 * The limits while one list replaces another: all names of both lists, with the larger maximum, so that no usage is
 * lost.
 */
export function widestLimits(...lists: readonly (readonly DestinationLimit[])[]): readonly DestinationLimit[] {
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

export class DestinationBudgets {
  readonly #onExhausted: (limit: DestinationLimit) => void;
  #budgets: readonly Budget[] = [];

  /** @param used earlier usage by limit name @param onExhausted called once for each limit that is exhausted */
  constructor(
    limits: readonly DestinationLimit[],
    used: BytesByName,
    onExhausted: (limit: DestinationLimit) => void = () => undefined,
  ) {
    this.#onExhausted = onExhausted;
    this.#budgets = limits.map((limit) => new Budget(limit, used[limit.name] ?? 0));
  }

  /** Keeps the usage of names in both lists, and forgets that of dropped names. */
  setLimits(limits: readonly DestinationLimit[]): void {
    const used = this.#used();
    this.#budgets = limits.map((limit) => new Budget(limit, used[limit.name] ?? 0));
  }

  use(): DestinationUse[] {
    return this.#budgets.map(({ name, bytesMax, bytesUsed }) => ({ name, bytesMax, bytesUsed }));
  }

  isExhausted(host: string): boolean {
    return this.#budgets.some((budget) => budget.covers(host) && budget.isExhausted);
  }

  /**
   * Returns false if the bytes do not fit; budgets that are too small are then exhausted. @param hosts canonical names
   */
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

/** Limit of a connection's names; more than any client asks for. Further ones are refused. */
const NAMES_MAX = 64;

export class Meter {
  readonly #budgets: DestinationBudgets | undefined;
  readonly #hosts = new Set<string>();
  #bytes = 0;

  /** @param budgets undefined to count nothing */
  constructor(budgets: DestinationBudgets | undefined) {
    this.#budgets = budgets;
  }

  get names(): string {
    return [...this.#hosts].join(', ');
  }

  /**
   * Returns false if the connection's bytes so far exceed the name's budget. @param host canonical; undefined if there
   * is no name
   */
  add(host: string | undefined): boolean {
    if (this.#budgets === undefined || host === undefined || this.#hosts.has(host)) return true;
    if (this.#hosts.size >= NAMES_MAX) return false;
    if (!this.#budgets.take(new Set([host]), this.#bytes)) return false;
    this.#hosts.add(host);
    return true;
  }

  /** Returns false if the bytes must not be passed on. */
  count(bytes: number): boolean {
    if (this.#budgets === undefined) return true;
    this.#bytes += bytes;
    return this.#hosts.size === 0 || this.#budgets.take(this.#hosts, bytes);
  }
}
