/** One call of a client: its request, its sandbox, and its response. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Guest, GuestReader } from '../../../machine/guest/guest.ts';
import { E2B_LIMITS } from '../limits.ts';
import { ConnectError } from './connect.ts';

export interface Call {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly id: string;
  /** Template of the sandbox, as its creator named it. */
  readonly template: string;
  /** The running guest. @throws SandboxError */
  guest(): Promise<Guest>;
  /** As `guest`, to read files. @throws SandboxError */
  reader(): Promise<GuestReader>;
  /** Resolves with whether the sandbox has ended, or ends soon. */
  ended(): Promise<boolean>;
  /** User in the guest that the caller names; undefined for the default one. */
  readonly user: string | undefined;
}

/** `Authorization: Basic base64(user:)`. */
export function userOf({ headers }: IncomingMessage): string | undefined {
  const [, encoded = ''] = /^Basic +([A-Za-z0-9+/=]+)$/i.exec(headers.authorization ?? '') ?? [];
  const [user = ''] = Buffer.from(encoded, 'base64').toString().split(':', 1);
  return user === '' ? undefined : user;
}

/** The client's timeout of the whole call in milliseconds; undefined if there is none. @throws ConnectError */
export function timeoutOf({ headers }: IncomingMessage): number | undefined {
  const text = headers['connect-timeout-ms'];
  if (text === undefined) return undefined;
  if (typeof text !== 'string' || !/^\d{1,10}$/.test(text)) {
    throw new ConnectError('invalid_argument', 'Connect-Timeout-Ms is not a number');
  }
  // Zero means none.
  return Number(text) === 0 ? undefined : Number(text);
}

/** How long a stream may be silent, in milliseconds. */
export function keepAliveOf({ headers }: IncomingMessage): number {
  const text = headers['keepalive-ping-interval'];
  if (typeof text !== 'string' || !/^\d{1,6}$/.test(text)) return E2B_LIMITS.keepAliveMs;
  return Math.max(E2B_LIMITS.keepAliveMsMin, Number(text) * 1000);
}

/**
 * The owner of a file. E2B's envd is root: it reads and writes any file, and gives what it creates to the user
 * (OpenAI's Agents create `/workspace` this way). In a VM, root is no more than its users.
 */
export const fileUser = (user: string | undefined) =>
  ({ asRoot: true, ...(user === undefined ? {} : { user }) }) as const;
