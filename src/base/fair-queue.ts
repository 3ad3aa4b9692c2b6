/**
 * A queue in which owners take turns, whatever the number of their jobs. One that floods it waits for itself. Pure.
 *
 *     push ─► waiting of each owner ─► next: the owner whose turn it is, with free running slots ─► done
 */
export class FairQueue<Job> {
  readonly #ownRunningMax: number;
  /** Owners in the order of their turns. */
  readonly #waiting = new Map<string, Set<Job>>();
  readonly #running = new Map<string, number>();

  /** @param ownRunningMax jobs of one owner between `next` and `done` */
  constructor(ownRunningMax: number) {
    this.#ownRunningMax = ownRunningMax;
  }

  /** The number of waiting jobs. */
  get size(): number {
    let size = 0;
    for (const jobs of this.#waiting.values()) size += jobs.size;
    return size;
  }

  push(owner: string, job: Job): void {
    const jobs = this.#waiting.get(owner);
    if (jobs === undefined) this.#waiting.set(owner, new Set([job]));
    else jobs.add(job);
  }

  /** Removes a waiting job. @returns false if it does not wait */
  remove(owner: string, job: Job): boolean {
    const jobs = this.#waiting.get(owner);
    if (jobs === undefined || !jobs.delete(job)) return false;
    if (jobs.size === 0) this.#waiting.delete(owner);
    return true;
  }

  /** The next job to run; call `done` when it has ended. */
  next(): { readonly owner: string; readonly job: Job } | undefined {
    for (const [owner, jobs] of this.#waiting) {
      const running = this.#running.get(owner) ?? 0;
      if (running >= this.#ownRunningMax) continue;
      const [job] = jobs;
      if (job === undefined) continue;
      this.#running.set(owner, running + 1);
      jobs.delete(job);
      // Its next turn comes after those of all others.
      this.#waiting.delete(owner);
      if (jobs.size > 0) this.#waiting.set(owner, jobs);
      return { owner, job };
    }
    return undefined;
  }

  done(owner: string): void {
    const running = (this.#running.get(owner) ?? 0) - 1;
    if (running > 0) this.#running.set(owner, running);
    else this.#running.delete(owner);
  }
}
