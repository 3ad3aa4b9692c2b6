/**
 * Watches whose events a client polls (`CreateWatcher`), of all sandboxes. A watcher that is not polled is removed
 * after a while. Its events are bounded; beyond, the client misses some, since E2B has no message for lost events.
 */
import { randomBytes } from 'node:crypto';
import type { Clock } from '../../../base/clock.ts';
import { FairShare, type Hold } from '../../../base/fairness/fair-share.ts';
import type { FileWatch } from '../../../machine/guest/guest.ts';
import { E2B_LIMITS } from '../limits.ts';
import { ConnectError } from './connect.ts';

interface Watcher {
  readonly sandbox: string;
  events: unknown[];
  /** The events as JSON, in characters. */
  memory: Hold | undefined;
  watch: FileWatch | null;
  stopTimer: () => void;
}

export class Watchers {
  readonly #clock: Clock;
  readonly #memory = new FairShare(E2B_LIMITS.watcherMemory);
  readonly #all = new Map<string, Watcher>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** @param start begins the watch, whose events go to `add` @throws ConnectError; errors of `start` */
  async create(sandbox: string, start: (add: (event: unknown) => void) => Promise<FileWatch>): Promise<string> {
    const ofSandbox = [...this.#all.values()].filter((other) => other.sandbox === sandbox);
    if (ofSandbox.length >= E2B_LIMITS.watchersMax) {
      const message = `the sandbox has ${E2B_LIMITS.watchersMax} watchers: remove one`;
      throw new ConnectError('resource_exhausted', message);
    }
    const watcher: Watcher = { sandbox, events: [], memory: undefined, watch: null, stopTimer: () => undefined };
    const id = `w${randomBytes(12).toString('hex')}`;
    this.#all.set(id, watcher);
    try {
      watcher.watch = await start((event) => {
        if (!this.#all.has(id) || watcher.events.length >= E2B_LIMITS.watcherEventsMax) return;
        if (this.#reserve(watcher, JSON.stringify(event).length)) watcher.events.push(event);
      });
    } catch (error) {
      this.#drop(id, watcher);
      throw error;
    }
    // Already dropped if the sandbox has ended meanwhile.
    if (this.#all.has(id)) this.#expireLater(id, watcher);
    else watcher.watch.stop();
    return id;
  }

  /** The events since the last call. @throws ConnectError `not_found` */
  take(sandbox: string, id: string): readonly unknown[] {
    const watcher = this.#find(sandbox, id);
    this.#expireLater(id, watcher);
    const { events } = watcher;
    watcher.events = [];
    watcher.memory?.release();
    watcher.memory = undefined;
    return events;
  }

  /** @throws ConnectError `not_found` */
  remove(sandbox: string, id: string): void {
    this.#drop(id, this.#find(sandbox, id));
  }

  /** Call when the sandbox has ended. */
  forget(sandbox: string): void {
    for (const [id, watcher] of this.#all) if (watcher.sandbox === sandbox) this.#drop(id, watcher);
  }

  #find(sandbox: string, id: string): Watcher {
    const watcher = this.#all.get(id);
    if (watcher?.sandbox === sandbox) return watcher;
    throw new ConnectError('not_found', `watcher with id ${id.slice(0, 80)} not found`);
  }

  #reserve(watcher: Watcher, characters: number): boolean {
    const sum = (watcher.memory?.amount ?? 0) + characters;
    if (sum > E2B_LIMITS.watcherCharactersMax) return false;
    if (watcher.memory !== undefined) return watcher.memory.resize(sum);
    watcher.memory = this.#memory.take(watcher.sandbox, sum);
    return watcher.memory !== undefined;
  }

  #expireLater(id: string, watcher: Watcher): void {
    watcher.stopTimer();
    watcher.stopTimer = this.#clock.after(E2B_LIMITS.watcherIdleMs, () => this.#drop(id, watcher));
  }

  #drop(id: string, watcher: Watcher): void {
    watcher.stopTimer();
    watcher.memory?.release();
    watcher.watch?.stop();
    this.#all.delete(id);
  }
}
