/** One instance for each tenant, created when first needed; `null` is the operator. */
export class PerTenant<T> {
  readonly #make: (tenant: string | null) => Promise<T>;
  readonly #made = new Map<string | null, Promise<T>>();

  /** @param make its failure is not kept */
  constructor(make: (tenant: string | null) => Promise<T>) {
    this.#make = make;
  }

  of(tenant: string | null): Promise<T> {
    const known = this.#made.get(tenant);
    if (known !== undefined) return known;
    const made = this.#make(tenant);
    this.#made.set(tenant, made);
    made.catch(() => this.#made.delete(tenant));
    return made;
  }

  async all(): Promise<readonly T[]> {
    return await Promise.all(this.#made.values());
  }
}
