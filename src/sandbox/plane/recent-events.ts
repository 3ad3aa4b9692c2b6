/** The newest events of all sandboxes of a host, for a live view. Each sandbox has a limited share. */
import type { TimedEvent } from '../contract/events.ts';

export type SandboxTimedEvent = TimedEvent & { readonly sandbox: string };

export const RECENT_LIMITS = { eventsMax: 64, perSandboxMax: 16 } as const;

export class RecentEvents {
  readonly #kept: SandboxTimedEvent[] = [];

  note(sandbox: string, event: TimedEvent): void {
    this.#kept.push({ ...event, sandbox });
    const own = this.#kept.filter((one) => one.sandbox === sandbox).length;
    if (own > RECENT_LIMITS.perSandboxMax) {
      const oldest = this.#kept.findIndex((one) => one.sandbox === sandbox);
      this.#kept.splice(oldest, 1);
    }
    if (this.#kept.length > RECENT_LIMITS.eventsMax) this.#kept.shift();
  }

  /** Oldest first. */
  list(): readonly SandboxTimedEvent[] {
    return [...this.#kept];
  }
}
