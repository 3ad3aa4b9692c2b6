/** The phases of a connection through the gateway. */
import type { EndReason } from './sandbox.ts';

export interface Refused {
  readonly reason: EndReason;
  readonly why: string;
  readonly name: string | undefined;
}

/** Whose bytes each phase takes; others are dropped. */
export const PHASES = {
  /** Before the first hello or head is allowed. */
  reading: { guest: true, upstream: false },
  /** Connecting to the upstream, while judged bytes are queued. */
  dialing: { guest: true, upstream: false },
  open: { guest: true, upstream: true },
  /** A later request was refused: the answers to earlier ones first. */
  draining: { guest: false, upstream: true },
  /** Refused: the guest gets the reason, if there is one to send. */
  answering: { guest: false, upstream: false },
  /** The upstream has ended: the guest gets the rest. */
  closing: { guest: false, upstream: false },
  /** `SecretConnection` has the sockets. */
  decrypted: { guest: false, upstream: false },
  closed: { guest: false, upstream: false },
} as const;

export type Phase = keyof typeof PHASES;
