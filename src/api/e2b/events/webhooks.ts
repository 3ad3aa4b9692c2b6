/**
 * Delivers events to webhooks: at least once while an event is kept, in order for each webhook, with growing pauses
 * after failures. Deliveries are recorded on disk, so a restart continues there.
 */
import { createHash, randomUUID } from 'node:crypto';
import type { Clock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import { awaitOr } from '../../../base/ignore.ts';
import type { Log } from '../../../base/log.ts';
import { type EventJournal, matches, type NewEvent, type StoredEvent, type Webhook } from './journal.ts';
import { EVENT_LIMITS } from './limits.ts';
import { webhookBody } from './view.ts';

/** Sends a body once; throws if it was not accepted. Decides where events may be sent. */
export type PostEvent = (url: string, body: string, headers: Readonly<Record<string, string>>) => Promise<void>;

export interface WebhookParts {
  readonly journal: EventJournal;
  readonly clock: Clock;
  readonly log: Log;
  readonly post: PostEvent;
}

interface Running {
  readonly webhook: Webhook;
  readonly stop: AbortController;
  wake: () => void;
}

export class Webhooks implements AsyncDisposable {
  readonly #parts: WebhookParts;
  readonly #running = new Map<string, Running>();
  readonly #loops = new Set<Promise<void>>();

  constructor(parts: WebhookParts) {
    this.#parts = parts;
    for (const webhook of parts.journal.webhooks()) this.start(webhook);
  }

  /** Call when the journal has a new event. */
  wake(event: NewEvent): void {
    for (const one of this.#running.values()) if (matches(one.webhook, event)) one.wake();
  }

  start(webhook: Webhook): void {
    this.stop(webhook.id);
    if (!webhook.enabled) return;
    const running = { webhook, stop: new AbortController(), wake: (): void => undefined };
    this.#running.set(webhook.id, running);
    const loop = this.#deliver(running);
    this.#loops.add(loop);
    void loop.then(() => this.#loops.delete(loop));
  }

  stop(id: string): void {
    this.#running.get(id)?.stop.abort(new Error('the webhook was changed'));
    this.#running.delete(id);
  }

  /** Of a removed tenant, with its events: a new one of its name must not send there. */
  forget(tenant: string): void {
    const { journal } = this.#parts;
    for (const { id } of journal.webhooks(tenant)) this.stop(id);
    journal.forget(tenant);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const id of [...this.#running.keys()]) this.stop(id);
    await Promise.all(this.#loops);
  }

  async #deliver(running: Running): Promise<void> {
    const { clock, journal } = this.#parts;
    const { webhook } = running;
    const { signal } = running.stop;
    let pauseMs: number = EVENT_LIMITS.retryMsMin;
    // One listener for all waits: a webhook may wait for years.
    signal.addEventListener('abort', () => running.wake(), { once: true });
    const woken = (begin: (resolve: () => void) => void): Promise<void> =>
      new Promise((resolve) => {
        running.wake = resolve;
        begin(resolve);
      });
    while (!signal.aborted) {
      // The check and the wait run in one turn of the loop, so that no event can arrive unseen in between.
      const next = this.#try(signal, () => journal.nextFor(webhook) ?? 'nothing');
      if (next === 'nothing') await woken(() => undefined);
      else if (next !== 'failed' && (await this.#deliverOne(webhook, next, signal))) {
        pauseMs = EVENT_LIMITS.retryMsMin;
      } else {
        const until = clock.now() + pauseMs;
        // A new event also wakes, but must not send the previous one early.
        while (!signal.aborted && clock.now() < until) {
          let stop = (): void => undefined;
          await woken((resolve) => {
            stop = clock.after(until - clock.now(), resolve);
          });
          stop();
        }
        pauseMs = Math.min(2 * pauseMs, EVENT_LIMITS.retryMsMax);
      }
    }
  }

  /** Returns false if it was not accepted, or its acceptance can't be recorded now. */
  async #deliverOne(webhook: Webhook, event: StoredEvent, signal: AbortSignal): Promise<boolean> {
    if (!(await this.#send(webhook, event))) return false;
    if (signal.aborted) return true;
    const note = (): string => {
      this.#parts.journal.noteDelivered(webhook.id, event.seq);
      return 'noted';
    };
    return this.#try(signal, note) === 'noted';
  }

  /** A journal that can't be read or written now is retried, like a receiver. */
  #try<T>(signal: AbortSignal, use: () => T): T | 'failed' {
    try {
      return use();
    } catch (error) {
      const reason = describeError(error);
      if (!signal.aborted) this.#parts.log.error('a webhook waits for its journal', { reason });
      return 'failed';
    }
  }

  async #send({ id, url, secret }: Webhook, event: StoredEvent): Promise<boolean> {
    const body = webhookBody(event);
    return await awaitOr(false, 'logged by the function that posts; the event is sent again', async () => {
      await this.#parts.post(url, body, {
        'e2b-webhook-id': id,
        'e2b-delivery-id': randomUUID(),
        'e2b-signature-version': 'v1',
        'e2b-signature': signatureOf(secret, body),
      });
      return true;
    });
  }
}

/** As E2B documents it: the digest of the secret and the body, not an HMAC. */
export function signatureOf(secret: string, body: string): string {
  return createHash('sha256')
    .update(secret + body)
    .digest('base64')
    .replace(/=+$/, '');
}
