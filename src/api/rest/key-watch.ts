/**
 * Ends answers in progress, streams and tunnels of a key once it is revoked. A key is checked only at the start of a
 * request, and a stream may last for days.
 */
import type { Clock } from '../../base/clock.ts';
import type { Caller, Callers } from '../tenants/callers.ts';
import { API_LIMITS } from './limits.ts';

interface Closable {
  readonly closed: boolean;
  once(event: 'close', listener: () => void): unknown;
  destroy(): unknown;
}

export class KeyWatch {
  readonly #callers: Pick<Callers, 'isRevoked'>;
  readonly #clock: Clock;
  readonly #open = new Map<Closable, Caller>();
  #stopTimer: (() => void) | null = null;

  constructor(callers: Pick<Callers, 'isRevoked'>, clock: Clock) {
    this.#callers = callers;
    this.#clock = clock;
  }

  get size(): number {
    return this.#open.size;
  }

  follow(caller: Caller, open: Closable): void {
    // The operator's own key changes only with the daemon.
    if (caller.tenant === null || open.closed) return;
    this.#open.set(open, caller);
    open.once('close', () => this.#open.delete(open));
    this.#schedule();
  }

  close(): void {
    this.#stopTimer?.();
    this.#stopTimer = null;
    this.#open.clear();
  }

  #schedule(): void {
    this.#stopTimer ??= this.#clock.after(API_LIMITS.keyCheckMs, () => {
      this.#stopTimer = null;
      this.#endRevoked();
      if (this.#open.size > 0) this.#schedule();
    });
  }

  #endRevoked(): void {
    // Checks each key once, since that reads the home.
    const revoked = new Map<string, boolean>();
    for (const [open, { key }] of this.#open) {
      const isRevoked = revoked.get(key) ?? this.#callers.isRevoked(key);
      revoked.set(key, isRevoked);
      if (isRevoked) open.destroy();
    }
  }
}
