/** What a gateway knows of a sandbox, and what one of its connections asks of it (types only). */
import type { Socket } from 'node:net';
import type { Clock } from '../../base/clock.ts';
import type { DestinationBudgets } from '../policy/destination-budgets.ts';
import type { Destination, GatewayPolicy, RefusalReason } from '../policy/judge.ts';
import type { Pins } from '../policy/pins.ts';
import type { SecretEndReason, SecretUse } from '../secret/connection.ts';
import type { EgressSecrets } from '../secret/secret.ts';

export interface GatewaySandbox {
  readonly id: string;
  /** As it is now. */
  readonly policy: () => GatewayPolicy;
  readonly pins: Pins;
  /** As they are now; absent: it has none. */
  readonly secrets?: () => EgressSecrets | undefined;
  /** Absent: bytes are not counted by name. */
  readonly budgets?: DestinationBudgets;
}

export interface GatewayTimeouts {
  /** From the connection to its judged hello or head; from the first byte of a later head to its end. */
  readonly headMs: number;
  readonly connectMs: number;
  /** No byte moved in either direction. */
  readonly idleMs: number;
  /** For a refused guest to read why. */
  readonly lingerMs: number;
}

export type EndReason =
  | RefusalReason
  | SecretEndReason
  | 'head_timeout'
  | 'idle_timeout'
  | 'unreachable'
  | 'ended_early';

export type GatewayProtocol = 'tls' | 'http';

export interface ConnectionContext {
  readonly clock: Clock;
  readonly timeouts: GatewayTimeouts;
  /** A socket that connects to the destination, with `allowHalfOpen`. */
  readonly dial: (destination: Destination) => Socket;
  /** False: what has come with it is more than its budget has. */
  readonly onAllowed: (protocol: GatewayProtocol, name: string | undefined) => boolean;
  readonly onRefused: (reason: EndReason, why: string, name: string | undefined) => void;
  /** Before they are passed on. False: they must not be, and the connection has been destroyed. */
  readonly onBytes: (direction: 'sent' | 'received', bytes: number) => boolean;
  readonly onSecrets: (use: SecretUse) => void;
}
