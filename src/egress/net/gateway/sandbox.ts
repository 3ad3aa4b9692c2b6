/** A gateway's view of a sandbox, and the context of its connections. */
import type { Socket } from 'node:net';
import type { Clock } from '../../../base/clock.ts';
import type { FairShareLimits, Hold } from '../../../base/fairness/fair-share.ts';
import type { DestinationBudgets } from '../policy/destination-budgets.ts';
import type { Endpoint, GatewayPolicy, RefusalReason } from '../policy/judge.ts';
import type { Pins } from '../policy/pins.ts';
import type { SecretEndReason, SecretUse } from '../secret/connection.ts';
import type { EgressSecrets } from '../secret/secret.ts';

/**
 * Connections of all sandboxes to hosts with secrets or request rules. Each holds the state of two TLS connections, and
 * its handshakes take time of the event loop.
 */
export const DECRYPTION_SHARES: FairShareLimits = { sumMax: 1024, ownMax: 128, guaranteed: 4, places: 128 };

export interface GatewaySandbox {
  readonly id: string;
  readonly policy: () => GatewayPolicy;
  readonly pins: Pins;
  /** Returns the current secrets; absent if there are none. */
  readonly secrets?: () => EgressSecrets | undefined;
  /** Without it, bytes are not counted by name. */
  readonly budgets?: DestinationBudgets;
}

export interface GatewayTimeouts {
  /** For the first hello or head, from the start of the connection; for a later head, from its first byte. */
  readonly headMs: number;
  readonly connectMs: number;
  /** Time without a byte in either direction. */
  readonly idleMs: number;
  /** Time for a refused guest to read the reason. */
  readonly lingerMs: number;
}

export type EndReason =
  | RefusalReason
  | SecretEndReason
  | 'head_timeout'
  | 'idle_timeout'
  | 'unreachable'
  | 'ended_early'
  | 'decryption_limit';

export type GatewayProtocol = 'tls' | 'http';

export interface ConnectionContext {
  readonly clock: Clock;
  readonly timeouts: GatewayTimeouts;
  readonly dial: (destination: Endpoint) => Socket;
  /** Returns false if the bytes so far exceed the budget of the name. */
  readonly onAllowed: (protocol: GatewayProtocol, name: string | undefined) => boolean;
  readonly onRefused: (reason: EndReason, why: string, name: string | undefined) => void;
  /**
   * Called before bytes are passed on. If it returns false, they must not be, and the connection has been destroyed.
   */
  readonly onBytes: (direction: 'sent' | 'received', bytes: number) => boolean;
  readonly onSecrets: (use: SecretUse) => void;
  /** Returns undefined if too many connections are decrypted. */
  readonly takeDecryption: () => Hold | undefined;
}
