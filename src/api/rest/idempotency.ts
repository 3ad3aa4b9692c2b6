/**
 * `Idempotency-Key`: a client that got no answer retries with the same key and gets the result of the first request
 * instead of a second one. Keys are remembered for a while, failures are not.
 *
 * A request is canceled when all its clients have disconnected.
 */
import { createHash } from 'node:crypto';
import type { Clock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import { BusyError } from '../../sandbox/contract/errors.ts';
import { ApiError } from './errors.ts';
import { API_LIMITS } from './limits.ts';

interface Entry<T> {
  /** Digest of the request, which may be large and hold secrets. */
  readonly request: string;
  readonly result: Promise<T>;
  readonly cancel: AbortController;
  clients: number;
  /** Monotonic; undefined while in progress. */
  endedMs: number | undefined;
}

export class IdempotentRequests<T> {
  readonly #clock: Clock;
  /** Oldest first. */
  readonly #entries = new Map<string, Entry<T>>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * @param client aborted when this client disconnects
   * @param start called for the first request of a key; its signal is aborted when no client waits anymore
   * @throws ApiError `key_reused`; BusyError; errors of `start`
   */
  async run(key: string, request: string, client: AbortSignal, start: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const digest = createHash('sha256').update(request).digest('hex');
    const entry = this.#get(key, digest) ?? this.#add(key, digest, start);
    entry.clients += 1;
    const leave = (): void => {
      entry.clients -= 1;
      if (entry.clients > 0 || entry.endedMs !== undefined) return;
      this.#forget(key, entry);
      entry.cancel.abort(client.reason);
    };
    if (client.aborted) leave();
    else client.addEventListener('abort', leave, { once: true });
    return await entry.result.finally(() => client.removeEventListener('abort', leave));
  }

  #get(key: string, request: string): Entry<T> | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    if (entry.endedMs !== undefined && entry.endedMs + API_LIMITS.idempotencyMs <= this.#clock.now()) {
      this.#entries.delete(key);
      return undefined;
    }
    if (entry.request === request) return entry;
    throw new ApiError('key_reused', 'this Idempotency-Key was used before with another request', {
      remedy: 'use a new key for each sandbox',
    });
  }

  #add(key: string, request: string, start: (signal: AbortSignal) => Promise<T>): Entry<T> {
    this.#makeRoom();
    const cancel = new AbortController();
    const result = start(cancel.signal);
    const entry: Entry<T> = { request, result, cancel, clients: 0, endedMs: undefined };
    this.#entries.set(key, entry);
    result.then(
      () => {
        entry.endedMs = this.#clock.now();
      },
      (error: unknown) => {
        ignore(error, 'reported to the clients of the key');
        this.#forget(key, entry);
      },
    );
    return entry;
  }

  #forget(key: string, entry: Entry<T>): void {
    if (this.#entries.get(key) === entry) this.#entries.delete(key);
  }

  /** Drops the oldest finished entry; entries in progress stay. */
  #makeRoom(): void {
    if (this.#entries.size < API_LIMITS.idempotencyKeysMax) return;
    for (const [key, entry] of this.#entries) {
      if (entry.endedMs === undefined) continue;
      this.#entries.delete(key);
      return;
    }
    throw new BusyError('too many requests with an Idempotency-Key are in progress', API_LIMITS.retryAfterMs);
  }
}
