/**
 * The gateway (io): the packet filter redirects a sandbox's TCP connections here if its policy decides by name. It
 * passes a connection on only if IP = SNI = Host, and decrypts TLS only to hosts with secrets (`secret.ts`) or with
 * rules by method and path.
 *
 *     guest ──tcp 443──► redirect ──► gateway: ClientHello ─► name allowed, address pinned ──► that address
 *     guest ──tcp  80──► redirect ──► gateway: each HTTP head, as above ─────────────────────► that address
 *                                        └─ no: alert, or 403 with the reason; counted
 *
 * The gateway never resolves a name: it connects to the address that the guest connected to.
 */
import { connect, createServer, type Server, type Socket } from 'node:net';
import { type Clock, systemClock } from '../../../base/clock.ts';
import { FairShare, type FairShareLimits } from '../../../base/fairness/fair-share.ts';
import { ignore } from '../../../base/ignore.ts';
import { type Log, silentLog } from '../../../base/log.ts';
import { plainAddress } from '../addresses/host-name.ts';
import { listenError } from '../listen-error.ts';
import { Meter } from '../policy/destination-budgets.ts';
import { type Endpoint, exhaustedText } from '../policy/judge.ts';
import type { SecretUse } from '../secret/connection.ts';
import { GatewayConnection } from './connection.ts';
import {
  type ConnectionContext,
  DECRYPTION_SHARES,
  type EndReason,
  type GatewayProtocol,
  type GatewaySandbox,
  type GatewayTimeouts,
} from './sandbox.ts';

/** Connections of all gateways of a process. A sandbox always has its guaranteed ones, whatever others do. */
export const CONNECTION_SHARES: FairShareLimits = { sumMax: 4096, ownMax: 256, guaranteed: 16, places: 128 };

const GATEWAY_TIMEOUTS: GatewayTimeouts = { headMs: 10_000, connectMs: 10_000, idleMs: 300_000, lingerMs: 2_000 };

type GatewayEndReason = EndReason | 'unknown_sandbox' | 'no_destination' | 'connection_limit';

export interface GatewayEvent {
  readonly sandboxId: string | undefined;
  readonly destination: Endpoint | undefined;
  /** The name that the guest gave, if known. */
  readonly name: string | undefined;
  readonly outcome: 'allowed' | GatewayEndReason;
  readonly why: string;
}

export interface GatewayOptions {
  readonly address: string;
  /** 0 selects any free port. */
  readonly port: number;
  /** @param remoteAddress in the form of `plainAddress` */
  readonly findSandbox: (remoteAddress: string) => GatewaySandbox | undefined;
  /** The destination before the redirect (SO_ORIGINAL_DST). */
  readonly originalDestination: (socket: Socket) => Endpoint | undefined;
  /** The protocol of a port; undefined if the first byte decides. */
  readonly protocolOf?: (port: number) => GatewayProtocol | undefined;
  /** Must set `allowHalfOpen`. */
  readonly dial?: (destination: Endpoint) => Socket;
  /** Called once per judged connection or request. */
  readonly onEvent?: (event: GatewayEvent) => void;
  /** Called once per readable request with a secret or placeholder. */
  readonly onSecrets?: (use: SecretUse & { readonly sandboxId: string }) => void;
  readonly clock?: Clock;
  readonly timeouts?: Partial<GatewayTimeouts>;
  /** Connection limit, shared with other gateways. Default: its own. */
  readonly connections?: FairShare;
  readonly decryptions?: FairShare;
  readonly log?: Log;
}

interface GatewayStats {
  readonly connections: number;
  readonly accepted: number;
  readonly allowed: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly ended: ReadonlyMap<GatewayEndReason, number>;
}

const DEFAULT_PROTOCOLS = new Map<number, GatewayProtocol>([
  [80, 'http'],
  [443, 'tls'],
]);

export class Gateway {
  readonly #options: GatewayOptions;
  readonly #timeouts: GatewayTimeouts;
  readonly #open: FairShare;
  readonly #decryptions: FairShare;
  readonly #log: Log;
  readonly #server: Server;
  readonly #connections = new Map<GatewayConnection, string>();
  readonly #ended = new Map<GatewayEndReason, number>();
  readonly #counts = { accepted: 0, allowed: 0, bytesSent: 0, bytesReceived: 0 };

  constructor(options: GatewayOptions) {
    this.#options = options;
    this.#timeouts = { ...GATEWAY_TIMEOUTS, ...options.timeouts };
    this.#open = options.connections ?? new FairShare(CONNECTION_SHARES);
    this.#decryptions = options.decryptions ?? new FairShare(DECRYPTION_SHARES);
    this.#log = options.log ?? silentLog;
    this.#server = createServer({ allowHalfOpen: true, noDelay: true }, (s) => this.#onSocket(s));
  }

  /** @returns the port. @throws ListenError */
  async listen(): Promise<number> {
    const { address, port } = this.#options;
    await new Promise<void>((resolve, reject) => {
      const onError = (error: Error): void => reject(listenError('egress', address, port, error));
      this.#server.once('error', onError);
      this.#server.listen(port, address, () => {
        this.#server.off('error', onError);
        resolve();
      });
    });
    this.#server.on('error', (error) => this.#log.warn('gateway', { error: error.message }));
    const bound = this.#server.address();
    return typeof bound === 'object' && bound !== null ? bound.port : port;
  }

  stats(): GatewayStats {
    return { ...this.#counts, connections: this.#connections.size, ended: new Map(this.#ended) };
  }

  /** Call after a policy change. Ends connections that the policy does not allow. */
  judgeSandbox(sandboxId: string): void {
    for (const [connection, owner] of this.#connections) if (owner === sandboxId) connection.rejudge();
  }

  closeSandbox(sandboxId: string): void {
    for (const [connection, owner] of this.#connections) if (owner === sandboxId) connection.destroy();
  }

  async close(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.close(() => resolve());
    for (const connection of this.#connections.keys()) connection.destroy();
    await promise;
  }

  #onSocket(socket: Socket): void {
    this.#counts.accepted += 1;
    const sandbox = this.#options.findSandbox(plainAddress(socket.remoteAddress ?? ''));
    if (sandbox === undefined) {
      this.#drop(socket, 'unknown_sandbox', 'the source address belongs to no sandbox');
      return;
    }
    const original = this.#options.originalDestination(socket);
    if (original === undefined) {
      this.#drop(socket, 'no_destination', 'the connection was not redirected', sandbox.id);
      return;
    }
    const hold = this.#open.take(sandbox.id, 1);
    if (hold === undefined) {
      this.#drop(socket, 'connection_limit', 'too many connections', sandbox.id);
      return;
    }
    socket.once('close', hold.release);
    const destination = { address: plainAddress(original.address), port: original.port };
    this.#serve(socket, sandbox, destination);
  }

  #serve(socket: Socket, sandbox: GatewaySandbox, destination: Endpoint): void {
    const { clock = systemClock, dial = dialDirectly, onEvent, onSecrets, protocolOf } = this.#options;
    const report = (outcome: GatewayEvent['outcome'], why: string, name: string | undefined) =>
      onEvent?.({ sandboxId: sandbox.id, destination, name, outcome, why });
    const { port } = destination;
    const protocol = protocolOf === undefined ? DEFAULT_PROTOCOLS.get(port) : protocolOf(port);
    const meter = new Meter(sandbox.budgets);
    const context: ConnectionContext = {
      clock,
      timeouts: this.#timeouts,
      dial,
      onAllowed: (_protocol: GatewayProtocol, name: string | undefined) => {
        if (!meter.add(name)) return false;
        this.#counts.allowed += 1;
        report('allowed', '', name);
        return true;
      },
      onRefused: (reason: EndReason, why: string, name: string | undefined) => {
        this.#count(reason);
        report(reason, why, name);
      },
      onBytes: (direction: 'sent' | 'received', bytes: number) => {
        if (!meter.count(bytes)) {
          context.onRefused('budget_spent', exhaustedText(meter.names), meter.names);
          connection.destroy();
          return false;
        }
        this.#counts[direction === 'sent' ? 'bytesSent' : 'bytesReceived'] += bytes;
        return true;
      },
      onSecrets: (use: SecretUse) => onSecrets?.({ ...use, sandboxId: sandbox.id }),
      takeDecryption: () => this.#decryptions.take(sandbox.id, 1),
    };
    const connection = new GatewayConnection(context, socket, sandbox, destination, protocol);
    this.#connections.set(connection, sandbox.id);
    socket.once('close', () => this.#connections.delete(connection));
  }

  #drop(socket: Socket, reason: GatewayEndReason, why: string, sandboxId?: string): void {
    this.#count(reason);
    this.#options.onEvent?.({ sandboxId, destination: undefined, name: undefined, outcome: reason, why });
    socket.on('error', (error) => ignore(error, 'the guest broke its connection'));
    socket.resetAndDestroy();
  }

  #count(reason: GatewayEndReason): void {
    this.#ended.set(reason, (this.#ended.get(reason) ?? 0) + 1);
  }
}

/**
 * Refuses to connect to the host itself. The packet filter redirects no such connection; this is a second check, since
 * Linux would use the destination as the source address.
 */
export function dialDirectly({ address, port }: Endpoint): Socket {
  const socket = connect({ host: address, port, allowHalfOpen: true, noDelay: true });
  socket.once('connect', () => {
    if (socket.localAddress === socket.remoteAddress) {
      socket.destroy(new Error('the destination is the host itself'));
    }
  });
  return socket;
}
