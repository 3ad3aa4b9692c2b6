/** Identifies the caller of a request, and the sandboxes that this caller sees. */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { ControlPlane } from '../../sandbox/contract/control.ts';
import type { Asker } from './ceiling.ts';

export interface Caller {
  /** `null` for the operator, who sees all sandboxes. */
  readonly tenant: string | null;
  /** Id of the key. For the operator, how the request came: `socket` or `daemon` (the daemon's own key). */
  readonly key: string;
}

/** This user and root, at the unix socket. */
export const SOCKET_CALLER: Caller = { tenant: null, key: 'socket' };
export const DAEMON_KEY_CALLER: Caller = { tenant: null, key: 'daemon' };

export interface Callers {
  /** The owner of a key; `null` for a wrong, unknown, revoked or expired one. Never throws. */
  identify(key: string): Caller | null;
  /** Calls the listener with the id of each key that is revoked or expires from now on. Returns a function that stops it. */
  onEnd(listener: (keyId: string) => void): () => void;
  /** The control plane of a tenant; `null` for the operator. */
  planeOf(tenant: string | null): ControlPlane;
  /** What the tenant may ask for now; `null` for the operator, who may everything. */
  askerOf(tenant: string | null): Asker | null;
}

/** A daemon without tenants. @param apiKey `null` to accept no key */
export function operatorOnly(control: ControlPlane, apiKey: string | null): Callers {
  return {
    identify: (key) => (apiKey !== null && equalInConstantTime(key, apiKey) ? DAEMON_KEY_CALLER : null),
    onEnd: () => () => undefined,
    planeOf: () => control,
    askerOf: () => null,
  };
}

/** Compares digests of equal length, so that timing reveals nothing about the key, not even its length. */
export function equalInConstantTime(a: string, b: string): boolean {
  return timingSafeEqual(keyDigest(a), keyDigest(b));
}

/**
 * SHA-256. A slow hash protects passwords, which can be guessed. A key has 192 random bits, so it can't be found from
 * its digest at any speed, and a slow hash would only let strangers waste the daemon's CPU with wrong keys.
 */
export function keyDigest(key: string): Buffer {
  return createHash('sha256').update(key).digest();
}
