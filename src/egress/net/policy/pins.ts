/**
 * Pins the addresses that our resolver returned to a sandbox for each name, until they expire. Under a name, a guest
 * may connect only to those, so changing an address between check and use gains nothing.
 */
import type { Clock } from '../../../base/clock.ts';

/** Time by which a pin outlives the answer, for a guest that connects at the end of the TTL. */
export const PIN_MARGIN_SECONDS = 5;
export const PIN_SECONDS_MIN = 30;
export const PIN_SECONDS_MAX = 3600;

interface PinLimits {
  readonly namesMax: number;
  readonly addressesPerNameMax: number;
  readonly pinsMax: number;
  /** Limit of the sum, over all pins, of the ports on which the packet filter opens each. */
  readonly destinationsMax: number;
}

/** Destinations: half of the packet filter's set, which keeps expired elements for a moment. */
export const PIN_LIMITS: PinLimits = { namesMax: 512, addressesPerNameMax: 64, pinsMax: 4096, destinationsMax: 4096 };

export interface Pin {
  readonly name: string;
  readonly address: string;
  readonly seconds: number;
}

type Pinned =
  | { readonly ok: true; readonly pins: readonly Pin[] }
  | { readonly ok: false; readonly reason: 'too_many_names' | 'too_many_addresses' };

export function pinSeconds(ttlSeconds: number): number {
  return Math.min(PIN_SECONDS_MAX, Math.max(PIN_SECONDS_MIN, ttlSeconds));
}

/** One per sandbox. When full, removes expired pins, and then refuses new ones; live ones stay. */
export class Pins {
  readonly #clock: Clock;
  readonly #limits: PinLimits;
  readonly #portsOf: (name: string) => number;
  /** name → address → expiry in monotonic milliseconds. */
  readonly #byName = new Map<string, Map<string, number>>();
  /** address → names; the reverse of the same pins. */
  readonly #byAddress = new Map<string, Set<string>>();
  /** name → number of ports when it was pinned or last retained. */
  readonly #ports = new Map<string, number>();
  #count = 0;
  #destinations = 0;

  /** @param portsOf number of ports on which the packet filter opens the addresses of a name */
  constructor(clock: Clock, limits: Partial<PinLimits> = {}, portsOf: (name: string) => number = () => 0) {
    this.#clock = clock;
    this.#limits = { ...PIN_LIMITS, ...limits };
    this.#portsOf = portsOf;
  }

  /** Pins in memory: live ones, and expired ones not yet removed. */
  get size(): number {
    return this.#count;
  }

  /**
   * Pins all of the addresses or none. Pinning again extends the expiry, and never shortens it.
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

  addressesOf(name: string): string[] {
    const nowMs = this.#clock.now();
    return [...(this.#byName.get(name) ?? [])].flatMap(([address, endMs]) => (endMs > nowMs ? [address] : []));
  }

  namesOf(address: string): string[] {
    return [...(this.#byAddress.get(address) ?? [])].filter((name) => this.isPinned(name, address));
  }

  /** All live pins, each with its remaining seconds. */
  live(): Pin[] {
    const nowMs = this.#clock.now();
    return [...this.#byName].flatMap(([name, addresses]) =>
      [...addresses].flatMap(([address, endMs]) =>
        endMs > nowMs ? [{ name, address, seconds: (endMs - nowMs) / 1000 }] : [],
      ),
    );
  }

  /** Call before reading counters and lists, so that they show only live pins. */
  removeExpired(): void {
    const nowMs = this.#clock.now();
    for (const [name, addresses] of this.#byName) {
      for (const [address, endMs] of addresses) if (endMs <= nowMs) this.#remove(name, address);
    }
  }

  unpin(pins: readonly Pick<Pin, 'name' | 'address'>[]): void {
    for (const { name, address } of pins) this.#remove(name, address);
  }

  /**
   * Call after a policy change. Removes names that `isKept` rejects, and those that no longer fit on their new ports.
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

  #refusal(name: string, addresses: readonly string[]): 'too_many_names' | 'too_many_addresses' | undefined {
    const { namesMax, addressesPerNameMax, pinsMax, destinationsMax } = this.#limits;
    const known = this.#byName.get(name);
    const fresh = new Set(addresses.filter((address) => known?.has(address) !== true)).size;
    if (known === undefined && fresh > 0 && this.#byName.size >= namesMax) return 'too_many_names';
    if ((known?.size ?? 0) + fresh > addressesPerNameMax) return 'too_many_addresses';
    const ports = this.#ports.get(name) ?? this.#portsOf(name);
    const isFull = this.#count + fresh > pinsMax || this.#destinations + fresh * ports > destinationsMax;
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
