/**
 * Which addresses a sandbox was told for which name, until when. What our resolver answered is what may be
 * connected to under that name, so a name that changes its mind between check and use gains nothing.
 */
import type { Clock } from '../../base/clock.ts';

/** A pin outlives the answer by this, for a guest that connects in the last moment of its TTL. */
export const PIN_MARGIN_SECONDS = 5;
export const PIN_SECONDS_MIN = 30;
export const PIN_SECONDS_MAX = 3600;

interface PinLimits {
  /** Names with at least one live pin. */
  readonly namesMax: number;
  readonly addressesPerNameMax: number;
  readonly pinsMax: number;
  /** Pins, each times the ports on which the packet filter opens it. */
  readonly destinationsMax: number;
}

/** Destinations: half of what the packet filter's set holds, which keeps the dead for a moment. */
export const PIN_LIMITS: PinLimits = {
  namesMax: 512,
  addressesPerNameMax: 64,
  pinsMax: 4096,
  destinationsMax: 4096,
};

export interface Pin {
  readonly name: string;
  readonly address: string;
  /** Seconds from now. */
  readonly seconds: number;
}

type Pinned =
  | { readonly ok: true; readonly pins: readonly Pin[] }
  | { readonly ok: false; readonly reason: 'too_many_names' | 'too_many_addresses' };

/** How long a pin of a record with this TTL (seconds) lives. */
export function pinSeconds(ttlSeconds: number): number {
  return Math.min(PIN_SECONDS_MAX, Math.max(PIN_SECONDS_MIN, ttlSeconds));
}

/** One per sandbox. Full: the dead are removed first, then new pins are refused; live ones stay. */
export class Pins {
  readonly #clock: Clock;
  readonly #limits: PinLimits;
  readonly #portsOf: (name: string) => number;
  /** name → address → end, monotonic milliseconds. */
  readonly #byName = new Map<string, Map<string, number>>();
  /** address → names; the reverse of the same pins. */
  readonly #byAddress = new Map<string, Set<string>>();
  /** name → ports, as they were when it was pinned or last kept. */
  readonly #ports = new Map<string, number>();
  #count = 0;
  #destinations = 0;

  /** @param portsOf a name, on which the packet filter opens its addresses */
  constructor(
    clock: Clock,
    limits: Partial<PinLimits> = {},
    portsOf: (name: string) => number = () => 0,
  ) {
    this.#clock = clock;
    this.#limits = { ...PIN_LIMITS, ...limits };
    this.#portsOf = portsOf;
  }

  /** Live and dead-but-not-yet-removed pins: what memory is used for. */
  get size(): number {
    return this.#count;
  }

  /**
   * All of the addresses or none. Pinning again moves the end to the later one.
   * @param ttlSeconds of the answer; clamped to 30 s … 1 h
   */
  pin(name: string, addresses: readonly string[], ttlSeconds: number): Pinned {
    const refused = this.#refusal(name, addresses);
    if (refused !== undefined) {
      this.removeExpired();
      const still = this.#refusal(name, addresses);
      if (still !== undefined) return { ok: false, reason: still };
    }
    const seconds = pinSeconds(ttlSeconds);
    const endMs = this.#clock.now() + seconds * 1000;
    for (const address of addresses) this.#add(name, address, endMs);
    return { ok: true, pins: addresses.map((address) => ({ name, address, seconds })) };
  }

  isPinned(name: string, address: string): boolean {
    const endMs = this.#byName.get(name)?.get(address);
    return endMs !== undefined && endMs > this.#clock.now();
  }

  /** Live addresses of a name. */
  addressesOf(name: string): string[] {
    const nowMs = this.#clock.now();
    return [...(this.#byName.get(name) ?? [])].flatMap(([address, endMs]) =>
      endMs > nowMs ? [address] : [],
    );
  }

  /** Names under which the sandbox was told this address and may still use it. */
  namesOf(address: string): string[] {
    return [...(this.#byAddress.get(address) ?? [])].filter((name) => this.isPinned(name, address));
  }

  /** All that are live, each with the seconds it has left. */
  live(): Pin[] {
    const nowMs = this.#clock.now();
    return [...this.#byName].flatMap(([name, addresses]) =>
      [...addresses].flatMap(([address, endMs]) =>
        endMs > nowMs ? [{ name, address, seconds: (endMs - nowMs) / 1000 }] : [],
      ),
    );
  }

  /** Removes the dead, e.g. now and then, so that counters and lists show what is live. */
  removeExpired(): void {
    const nowMs = this.#clock.now();
    for (const [name, addresses] of this.#byName) {
      for (const [address, endMs] of addresses) if (endMs <= nowMs) this.#remove(name, address);
    }
  }

  /** What could not be told to the packet filter. */
  unpin(pins: readonly Pick<Pin, 'name' | 'address'>[]): void {
    for (const { name, address } of pins) this.#remove(name, address);
  }

  /**
   * Forgets names that `isKept` no longer wants, and those that are too many on the ports that they have now:
   * after a change of the policy.
   */
  retain(isKept: (name: string) => boolean): void {
    this.removeExpired();
    let destinations = 0;
    for (const [name, addresses] of this.#byName) {
      const ports = this.#portsOf(name);
      const more = ports * addresses.size;
      const isRoom = destinations + more <= this.#limits.destinationsMax;
      if (isKept(name) && isRoom) {
        this.#ports.set(name, ports);
        destinations += more;
      } else for (const address of addresses.keys()) this.#remove(name, address);
    }
    this.#destinations = destinations;
  }

  #refusal(
    name: string,
    addresses: readonly string[],
  ): 'too_many_names' | 'too_many_addresses' | undefined {
    const { namesMax, addressesPerNameMax, pinsMax, destinationsMax } = this.#limits;
    const known = this.#byName.get(name);
    const fresh = new Set(addresses.filter((address) => known?.has(address) !== true)).size;
    if (known === undefined && fresh > 0 && this.#byName.size >= namesMax) return 'too_many_names';
    if ((known?.size ?? 0) + fresh > addressesPerNameMax) return 'too_many_addresses';
    const ports = this.#ports.get(name) ?? this.#portsOf(name);
    const isFull =
      this.#count + fresh > pinsMax || this.#destinations + fresh * ports > destinationsMax;
    return fresh > 0 && isFull ? 'too_many_addresses' : undefined;
  }

  #add(name: string, address: string, endMs: number): void {
    let addresses = this.#byName.get(name);
    if (addresses === undefined) {
      addresses = new Map();
      this.#byName.set(name, addresses);
      this.#ports.set(name, this.#portsOf(name));
    }
    const previousMs = addresses.get(address);
    addresses.set(address, Math.max(endMs, previousMs ?? endMs));
    if (previousMs !== undefined) return;
    this.#count += 1;
    this.#destinations += this.#ports.get(name) ?? 0;
    let names = this.#byAddress.get(address);
    if (names === undefined) {
      names = new Set();
      this.#byAddress.set(address, names);
    }
    names.add(name);
  }

  #remove(name: string, address: string): void {
    const addresses = this.#byName.get(name);
    if (addresses?.delete(address) !== true) return;
    this.#count -= 1;
    this.#destinations -= this.#ports.get(name) ?? 0;
    if (addresses.size === 0) {
      this.#byName.delete(name);
      this.#ports.delete(name);
    }
    const names = this.#byAddress.get(address);
    names?.delete(name);
    if (names?.size === 0) this.#byAddress.delete(address);
  }
}
