/**
 * Shares one bounded amount, such as bytes or connections, among owners that can't be trusted to leave some for others:
 *
 *     sum ── guaranteed × places ── each owner with a place can always hold its guaranteed amount
 *      └──── the rest ───────────── borrowed: an owner may borrow as much as it leaves free
 *
 * One greedy owner borrows at most half of the rest, two a third each, and so on, so something is always left for the
 * next. An owner has a place while it holds something. Pure.
 */
import { assert } from '../assert.ts';

export interface FairShareLimits {
  /** Limit of all owners together; never exceeded. */
  readonly sumMax: number;
  readonly ownMax: number;
  /** Amount that an owner with a place can always hold. */
  readonly guaranteed: number;
  /** Number of owners with a guarantee at one time; others only borrow. */
  readonly places: number;
}

export interface Hold {
  readonly amount: number;
  /** @returns false, without a change, if there is no room */
  resize(amount: number): boolean;
  /** Idempotent. */
  release(): void;
}

interface Owner {
  readonly id: string;
  /** Undefined without a place. */
  guaranteed: number | undefined;
  held: number;
}

export class FairShare {
  readonly #limits: FairShareLimits;
  /** Owners that hold something, in the order in which they began. */
  readonly #owners = new Map<string, Owner>();
  #placesFree: number;
  #held = 0;
  #borrowed = 0;
  #refused = 0;

  constructor(limits: FairShareLimits) {
    const { sumMax, guaranteed, places } = limits;
    assert(guaranteed * places <= sumMax, 'the guarantees fit into the sum');
    this.#limits = limits;
    this.#placesFree = places;
  }

  get held(): number {
    return this.#held;
  }

  get refused(): number {
    return this.#refused;
  }

  heldBy(owner: string): number {
    return this.#owners.get(owner)?.held ?? 0;
  }

  /**
   * @param ownMax a limit of this owner, lower than the general one
   * @returns undefined if there is no room
   */
  take(id: string, amount: number, ownMax = this.#limits.ownMax): Hold | undefined {
    assert(amount > 0, 'an amount above 0 is taken');
    let now = 0;
    let isReleased = false;
    const resize = (next: number): boolean => {
      if (isReleased || !this.#change(id, next - now, Math.min(ownMax, this.#limits.ownMax))) return false;
      now = next;
      return true;
    };
    if (!resize(amount)) return undefined;
    return {
      get amount() {
        return now;
      },
      resize,
      release: () => {
        resize(0);
        isReleased = true;
      },
    };
  }

  #change(id: string, by: number, ownMax: number): boolean {
    const owner = this.#owners.get(id) ?? this.#begin(id);
    const held = owner.held + by;
    const borrowedBefore = borrowedBy(owner);
    const borrowed = borrowedBy({ ...owner, held });
    const others = this.#borrowed - borrowedBefore;
    const { sumMax, guaranteed, places } = this.#limits;
    const free = sumMax - guaranteed * places - others - borrowed;
    // Shrinking is always possible.
    const fits = by <= 0 || (held <= ownMax && (borrowed === 0 || borrowed <= free));
    if (fits) {
      owner.held = held;
      this.#held += by;
      this.#borrowed = others + borrowed;
    } else this.#refused += 1;
    if (owner.held === 0) this.#end(owner);
    return fits;
  }

  #begin(id: string): Owner {
    const owner: Owner = { id, guaranteed: undefined, held: 0 };
    this.#owners.set(id, owner);
    if (this.#placesFree > 0) this.#givePlace(owner);
    return owner;
  }

  #end(owner: Owner): void {
    this.#owners.delete(owner.id);
    if (owner.guaranteed === undefined) return;
    this.#placesFree += 1;
    // The owner that has waited longest gets the place.
    const next = [...this.#owners.values()].find((each) => each.guaranteed === undefined);
    if (next !== undefined) this.#givePlace(next);
  }

  #givePlace(owner: Owner): void {
    this.#placesFree -= 1;
    this.#borrowed -= borrowedBy(owner);
    owner.guaranteed = this.#limits.guaranteed;
    this.#borrowed += borrowedBy(owner);
  }
}

/** Amount held beyond the guarantee. */
function borrowedBy({ held, guaranteed = 0 }: Pick<Owner, 'held' | 'guaranteed'>): number {
  return Math.max(0, held - guaranteed);
}
