/**
 * Posts a sandbox's event to the URL of its caller (io). The host must not lend its place in the network: a target
 * passes the egress decision, and callers learn only whether the event was delivered.
 */
import { type Clock, systemClock } from '../base/clock.ts';
import { describeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { decideAddress } from './outgoing/address.ts';
import { OutgoingClient, type Resolve } from './outgoing/client.ts';

/** Limit in ms for name resolution, connection, request and the head of the answer together. */
const POST_MS_MAX = 5000;
const HEAD_BYTES_MAX = 16_384;

export interface WebhookOptions {
  /** `HOST` or `HOST:PORT`, which may have private addresses. */
  readonly hosts: readonly string[];
  readonly log: Log;
  readonly clock?: Clock;
  /** Default: the host's resolver. */
  readonly resolve?: Resolve;
}

/** @param event a text is sent unchanged */
export type PostEvent = (
  url: string,
  event: object | string,
  headers?: Readonly<Record<string, string>>,
) => Promise<void>;

/**
 * Returns a function that posts an event once, follows no redirect, and takes a status from 200 to 299 for success. It
 * throws the same Error whatever the cause.
 */
export function eventPoster({ hosts, log, clock = systemClock, resolve }: WebhookOptions): PostEvent {
  const client = new OutgoingClient({ clock, silenceMsMax: POST_MS_MAX, headBytesMax: HEAD_BYTES_MAX, resolve });
  const judge = (url: URL) => (address: string) => {
    const { allowed, why } = decideAddress(url, address, hosts);
    return allowed ? undefined : `${why}; NEUROVISOR_WEBHOOK_HOSTS may name hosts with private addresses`;
  };
  return async (text, event, headers = {}) => {
    const url = new URL(text);
    try {
      const answer = await client.send({
        url,
        routeOf: (target) => ({ judge: judge(target) }),
        headers: { ...headers, 'content-type': 'application/json' },
        body: typeof event === 'string' ? event : JSON.stringify(event),
        redirectsMax: 0,
        wholeMsMax: POST_MS_MAX,
      });
      answer.destroy();
      if (answer.status < 200 || answer.status > 299)
        throw new Error(`the server answered with status ${answer.status}`);
    } catch (error) {
      const fields = { host: url.host, error: describeError(error) };
      log.warn('could not deliver an event to a webhook', fields);
      // Omits the cause: status, errno and decision would make this a scan of the host's networks.
      throw new Error('the event was not delivered; the log of the host has the cause');
    }
  };
}
