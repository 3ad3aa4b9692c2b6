/**
 * A queue that is first in, first out within a tenant and round-robin over tenants, so that a tenant with a
 * hundred requests does not make another wait for all of them (R-CP-8).
 *
 *     a1 a2 a3          take ─► a1, b1, c1, a2, b2, a3
 *     b1 b2
 *     c1
 *
 * A tenant that joins goes to the end of the round; all operations take constant time.
 */
export class FairQueue<E> {
  /** The map's insertion order is the order of the round, a set's the order of arrival. */
  readonly #tenants = new Map<string, Set<E>>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  sizeOf(tenant: string): number {
    return this.#tenants.get(tenant)?.size ?? 0;
  }

  /** @param item not in the queue yet */
  add(tenant: string, item: E): void {
    const items = this.#tenants.get(tenant);
    if (items === undefined) this.#tenants.set(tenant, new Set([item]));
    else items.add(item);
    this.#size++;
  }

  /** The next item. Only `take` and `delete` change it, so the first item can't be overtaken. */
  first(): E | undefined {
    const [items] = this.#tenants.values();
    const [item] = items ?? [];
    return item;
  }

  /**
   * Removes the first item; its tenant goes to the end of the round.
   * @param mayTake tenants for which it returns false keep their turns
   */
  take(mayTake: (tenant: string) => boolean = () => true): E | undefined {
    for (const [tenant, items] of this.#tenants) {
      if (!mayTake(tenant)) continue;
      const [item] = items;
      if (item !== undefined) this.delete(tenant, item);
      if (this.#tenants.delete(tenant)) this.#tenants.set(tenant, items);
      return item;
    }
    return undefined;
  }

  /** Removes an item at any position. @returns false if it is not there */
  delete(tenant: string, item: E): boolean {
    const items = this.#tenants.get(tenant);
    if (items === undefined || !items.delete(item)) return false;
    this.#size--;
    if (items.size === 0) this.#tenants.delete(tenant);
    return true;
  }
}
