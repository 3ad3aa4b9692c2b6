/**
 * Tunnels through HTTP to the agent (`spec/guest-protocol.md`) and to ports of network cards, for clients in another
 * process. Each operation, and each connection to a port, is one connection that is upgraded and then carries bytes
 * both ways, unread.
 *
 *     client ── GET /v1/sandboxes/{id}/operations, Upgrade: neurovisor-guest ──► 101
 *            ◄────────────── bytes of the agent's operations port ─────────────►  control.openOperation
 *     client ── GET /v1/sandboxes/{id}/ports/{port}, Upgrade: tcp ─────────────► 101
 *            ◄────────────── bytes of a TCP connection to its card ────────────►  control.openPort
 *
 * Back-pressure and half-closes pass through; an end or failure on one side ends the other.
 */
import { type IncomingMessage, STATUS_CODES } from 'node:http';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { z } from 'zod';
import { ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { parseTraceparent, type Tracer } from '../../base/trace/trace.ts';
import { idOfSandbox } from '../../sandbox/contract/checks.ts';
import type { ControlPlane } from '../../sandbox/contract/control.ts';
import { BusyError } from '../../sandbox/contract/errors.ts';
import { type Meter, watchAnswer } from './answer-time.ts';
import { ApiError, errorAnswer } from './errors.ts';
import { API_LIMITS } from './limits.ts';
import { type App, failures } from './route.ts';
import { idParams, portParams } from './schema/params.ts';
import { TenantSlots } from './slots.ts';
import { splice } from './splice.ts';
import { PORT_PROTOCOL, TUNNEL_PROTOCOL } from './upgrade.ts';

const PATH = /^\/v1\/sandboxes\/([a-zA-Z0-9][\w.-]{1,62})\/(operations|ports\/([1-9]\d{0,4}))$/;
const PORT_MAX = 65_535;

/** @param text value of `Upgrade`, in lower case */
export function isTunnelProtocol(text: string | undefined): boolean {
  return text === TUNNEL_PROTOCOL || text === PORT_PROTOCOL;
}

export function addTunnelRoutes(app: App): void {
  app.get(
    '/sandboxes/:id/ports/:port',
    {
      schema: {
        tags: ['guest'],
        operationId: 'openPort',
        summary: 'Connect to a port of the network card',
        description:
          `With \`Connection: Upgrade\` and \`Upgrade: ${PORT_PROTOCOL}\` the answer is 101; then the ` +
          "connection leads to the program that listens at the card's address in the sandbox.",
        params: portParams,
        response: { 101: z.null().describe('Raw bytes from here on.'), ...failures },
      },
    },
    () => refuseWithoutUpgrade(PORT_PROTOCOL),
  );
  app.get(
    '/sandboxes/:id/operations',
    {
      schema: {
        tags: ['guest'],
        operationId: 'openOperation',
        summary: 'Connect to the agent',
        description:
          `With \`Connection: Upgrade\` and \`Upgrade: ${TUNNEL_PROTOCOL}\` the answer is 101; then the ` +
          'connection carries one operation of the guest protocol (spec/guest-protocol.md, section 4), ' +
          "starting with the channel's `OK`.",
        params: idParams,
        response: { 101: z.null().describe('Raw bytes from here on.'), ...failures },
      },
    },
    () => refuseWithoutUpgrade(TUNNEL_PROTOCOL),
  );
}

function refuseWithoutUpgrade(protocol: string): never {
  const remedy = `send \`Connection: Upgrade\` and \`Upgrade: ${protocol}\``;
  throw new ApiError('upgrade_required', 'this route requires an upgrade', { remedy });
}

export class Tunnels {
  readonly #log: Log;
  readonly #tracer: Tracer;
  readonly #meter: Meter;
  readonly #slots = new TenantSlots('tunnels', API_LIMITS.tunnelsMax, API_LIMITS.tunnelShares);
  /** Client → id of its sandbox; `null` until known. */
  readonly #open = new Map<Duplex, string | null>();

  constructor(log: Log, tracer: Tracer, meter: Meter) {
    this.#meter = meter;
    this.#log = log;
    this.#tracer = tracer;
  }

  /**
   * Takes over a connection whose client asks to upgrade; never rejects.
   * @param caller or why the caller is refused
   * @returns the status of the answer, once it is known, and the sandbox's id
   */
  async accept(
    request: IncomingMessage,
    client: Duplex,
    head: Buffer,
    caller: { readonly tenant: string | null; readonly plane: ControlPlane } | ApiError,
  ): Promise<{ readonly status: number; readonly target: string | null }> {
    let id: string | null = null;
    client.on('error', (error) => ignore(error, 'reported by the close that follows'));
    this.#open.set(client, null);
    client.once('close', () => this.#open.delete(client));
    try {
      if (caller instanceof ApiError) throw caller;
      const { tenant, plane } = caller;
      const giveBack = this.#slots.take(tenant);
      client.once('close', giveBack);
      const asked = targetOf(request);
      const target = { ...asked, id: await idOfSandbox(plane, asked.id) };
      id = target.id;
      // Before it counts as the sandbox's, since the caller may not be its owner.
      await plane.get(target.id);
      // Its close would not be seen again, so that it would count for ever.
      if (client.destroyed) throw new ApiError('request_timeout', 'the client disconnected');
      this.#count(client, target.id);
      this.#trace(request, client, target);
      const guest = await this.#openFor(plane, client, target);
      join(client, guest, head, protocolOf(target));
      if (target.port === null) watchAnswer({ client, guest, head }, this.#meter);
      return { status: 101, target: id };
    } catch (error) {
      return { status: this.#refuse(client, error), target: id };
    }
  }

  get open(): number {
    return this.#open.size;
  }

  close(): void {
    for (const client of this.#open.keys()) client.destroy();
  }

  /** Attributes the sandbox's next actions to the caller's trace, since the bytes are not read. */
  #trace(request: IncomingMessage, client: Duplex, { id, port }: Target): void {
    const parent = parseTraceparent(request.headers['traceparent']);
    if (parent === null) return;
    const name = port === null ? 'operation' : 'port';
    const attributes = { 'neurovisor.sandbox.id': id };
    const span = this.#tracer.start(name, { kind: 'server', parent, attributes });
    this.#tracer.note(id, span.context);
    client.once('close', () => span.end());
  }

  #openFor(control: ControlPlane, client: Duplex, { id, port }: Target): Promise<Duplex> {
    if (port === null) return control.openOperation(id);
    const gone = new AbortController();
    client.once('close', () => gone.abort(new ApiError('request_timeout', 'the client disconnected')));
    return control.openPort(id, port, gone.signal);
  }

  /** @throws BusyError */
  #count(client: Duplex, id: string): void {
    const used = [...this.#open.values()].filter((other) => other === id).length;
    if (used >= API_LIMITS.tunnelsPerSandboxMax) {
      throw new BusyError(`sandbox ${id}: ${used} operations are in progress, the maximum`, API_LIMITS.retryAfterMs);
    }
    this.#open.set(client, id);
  }

  /** @returns the status */
  #refuse(client: Duplex, error: unknown): number {
    const { status, headers, body } = errorAnswer(error);
    if (status === 500) this.#log.error('tunnel', { error: String(error) });
    const text = JSON.stringify(body);
    const fields = {
      ...headers,
      'content-type': 'application/json',
      'content-length': String(Buffer.byteLength(text)),
      connection: 'close',
    };
    const lines = Object.entries(fields).map(([name, value]) => `${name}: ${value}\r\n`);
    client.end(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n${lines.join('')}\r\n${text}`);
    client.once('finish', () => client.destroy());
    return status;
  }
}

interface Target {
  readonly id: string;
  /** `null` for the agent. */
  readonly port: number | null;
}

const protocolOf = ({ port }: Target): string => (port === null ? TUNNEL_PROTOCOL : PORT_PROTOCOL);

/** @throws ApiError */
function targetOf(request: IncomingMessage): Target {
  const [, id, , portText] = PATH.exec(request.url ?? '') ?? [];
  const port = portText === undefined ? null : Number(portText);
  const isRight = id !== undefined && request.method === 'GET' && (port ?? 1) <= PORT_MAX;
  const target = { id: id ?? '', port };
  if (isRight && request.headers.upgrade?.toLowerCase() === protocolOf(target)) return target;
  throw new ApiError('route_not_found', 'no route accepts this upgrade');
}

function join(client: Duplex, guest: Duplex, head: Buffer, protocol: string): void {
  const switching = `HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: ${protocol}\r\n\r\n`;
  if (!splice({ stream: client, head }, { stream: guest }, switching)) return;
  client.once('end', () => {
    if (client instanceof Socket) {
      client.setTimeout(API_LIMITS.halfClosedIdleMsMax, () => client.destroy());
    }
  });
}
