/**
 * Ends answers in progress, streams and tunnels of a key once it is revoked. A key is checked only at the start of a
 * request, and a stream may last for days.
 */
import type { Caller, Callers } from '../tenants/callers.ts';

interface Closable {
  readonly closed: boolean;
  once(event: 'close', listener: () => void): unknown;
  destroy(): unknown;
}

export class KeyWatch {
  readonly #open = new Map<Closable, string>();
  readonly #stop: () => void;

  constructor(callers: Pick<Callers, 'onEnd'>) {
    this.#stop = callers.onEnd((keyId) => {
      for (const [open, key] of this.#open) if (key === keyId) open.destroy();
    });
  }

  get size(): number {
    return this.#open.size;
  }

  /** Call right after the caller was identified: a revocation in between would be missed. */
  follow(caller: Caller, open: Closable): void {
    // The operator's own key changes only with the daemon.
    if (caller.tenant === null || open.closed) return;
    this.#open.set(open, caller.key);
    open.once('close', () => this.#open.delete(open));
  }

  close(): void {
    this.#stop();
    this.#open.clear();
  }
}
