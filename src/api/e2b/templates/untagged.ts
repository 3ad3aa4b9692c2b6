/**
 * Builds that have lost their last tag. Clients that have looked one up create sandboxes from it by its id, so it stays
 * while a sandbox has it and for a time after its last use.
 */
import type { Clock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import type { Log } from '../../../base/log.ts';
import type { ControlPlane } from '../../../sandbox/contract/control.ts';
import { E2B_LIMITS } from '../limits.ts';
import { localNameOf } from './names.ts';
import type { StoredBuild, StoredTemplate, TemplateStore } from './store.ts';

/** Least time between two sweeps. */
const SWEEP_MS_MIN = 60_000;

interface Parts {
  readonly clock: Clock;
  readonly log: Log;
  readonly control: Pick<ControlPlane, 'list'>;
}

export class UntaggedBuilds implements AsyncDisposable {
  readonly #store: TemplateStore;
  readonly #parts: Parts;
  readonly #removeFiles: (buildId: string) => Promise<void>;
  /** Wall clock of the last use. A build without an entry has not been used by this process. */
  readonly #usedAtMs = new Map<string, number>();
  #stopTimer: (() => void) | undefined;
  #sweeping: Promise<void> = Promise.resolve();
  #isClosed = false;

  /** @param removeFiles never rejects */
  constructor(store: TemplateStore, parts: Parts, removeFiles: (buildId: string) => Promise<void>) {
    this.#store = store;
    this.#parts = parts;
    this.#removeFiles = removeFiles;
    this.#expectSweep();
  }

  /** Looking a build up, and taking its last tag, are uses. */
  use(buildId: string): void {
    this.#usedAtMs.set(buildId, this.#parts.clock.wall());
  }

  /** Removes the builds whose time is over, and the least recently used ones beyond the limit. Never rejects. */
  async sweep(): Promise<void> {
    this.#sweeping = this.#sweeping.then(async () => {
      try {
        await this.#sweep();
      } catch (error) {
        this.#parts.log.warn('untagged template builds could not be removed', { error: describeError(error) });
      }
      this.#expectSweep();
    });
    await this.#sweeping;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    this.#stopTimer?.();
    await this.#sweeping;
  }

  async #sweep(): Promise<void> {
    this.#forgetRemoved();
    const oldestFirst = this.#all().toSorted((a, b) => this.#usedAt(a) - this.#usedAt(b));
    const beyond = oldestFirst.slice(0, Math.max(0, oldestFirst.length - E2B_LIMITS.buildsUntaggedMax));
    const old = oldestFirst.filter((id) => this.#isOld(id));
    if (old.length > 0) {
      const sandboxes = new Set((await this.#parts.control.list()).map(({ template }) => template));
      for (const id of old) if (sandboxes.has(localNameOf(id))) this.use(id);
    }
    await this.#remove(new Set([...beyond, ...old.filter((id) => this.#isOld(id))]));
  }

  async #remove(gone: ReadonlySet<string>): Promise<void> {
    const isGone = ({ id }: StoredBuild): boolean => gone.has(id);
    for (const { id } of this.#store.all.filter((template) => untaggedOf(template).some(isGone))) {
      let removed: readonly StoredBuild[] = [];
      await this.#store.update(id, (template) => {
        // One of them may have got a tag while this change waited for its turn.
        removed = untaggedOf(template).filter(isGone);
        return { ...template, builds: template.builds.filter((build) => !removed.includes(build)) };
      });
      for (const build of removed) await this.#removeFiles(build.id);
    }
  }

  #forgetRemoved(): void {
    const kept = new Set(this.#store.all.flatMap(({ builds }) => builds.map(({ id }) => id)));
    for (const id of this.#usedAtMs.keys()) if (!kept.has(id)) this.#usedAtMs.delete(id);
  }

  #all(): readonly string[] {
    return this.#store.all.flatMap((template) => untaggedOf(template).map(({ id }) => id));
  }

  /** The first look at a build, for example one of an earlier daemon, counts as a use. */
  #usedAt(buildId: string): number {
    if (!this.#usedAtMs.has(buildId)) this.use(buildId);
    return this.#usedAtMs.get(buildId) ?? 0;
  }

  #isOld(buildId: string): boolean {
    return this.#usedAt(buildId) + E2B_LIMITS.untaggedMsMax <= this.#parts.clock.wall();
  }

  #expectSweep(): void {
    this.#stopTimer?.();
    this.#stopTimer = undefined;
    const times = this.#all().map((id) => this.#usedAt(id));
    if (times.length === 0 || this.#isClosed) return;
    const inMs = Math.min(...times) + E2B_LIMITS.untaggedMsMax - this.#parts.clock.wall();
    // A sweep that failed is repeated.
    this.#stopTimer = this.#parts.clock.after(Math.max(SWEEP_MS_MIN, inMs), () => void this.sweep());
  }
}

function untaggedOf({ builds, tags }: StoredTemplate): readonly StoredBuild[] {
  return builds.filter(({ id }) => !tags.some(({ buildId }) => buildId === id));
}
