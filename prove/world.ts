/** Creates the world of `map.ts` in the network namespace of this process, which must be private (I/O). */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { newSandboxId, type SandboxId } from '../src/base/ids.ts';
import { ignore } from '../src/base/ignore.ts';
import type { Log } from '../src/base/log.ts';
import { GATEWAY_MAC } from '../src/egress/net/addresses/address-plan.ts';
import { openHostNetwork } from '../src/egress/net/lease/host-network.ts';
import type { HostNetwork, LeaseLimits, NetworkLease } from '../src/egress/net/lease/lease.ts';
import { Links } from '../src/egress/net/link/links.ts';
import { type EgressPolicyText, parsePolicy } from '../src/egress/net/policy/egress-rules.ts';
import type { EgressSecrets } from '../src/egress/net/secret/secret.ts';
import { closeFd } from '../src/sys/fd.ts';
import { createTap } from '../src/sys/tun.ts';
import { Actor } from './actor.ts';
import { type CallOutcome, type ConnectionTry, type DnsOutcome, setSilence, silenceFor } from './caller.ts';
import type { UdpFrame } from './frames.ts';
import {
  type Arrival,
  HOST_AGENT,
  HOST_PUBLIC,
  HOST_UPLINK,
  PLAIN,
  POOL,
  SECRET,
  UPLINK_PREFIX,
  UPSTREAM,
} from './map.ts';

/** Port of a host program unrelated to sandboxes. */
export const HOST_PORT = 2222;

const ANSWERS = 3;

export class Guest {
  readonly actor: Actor;
  readonly address: string;
  readonly gateway: string;
  readonly mac: string;

  constructor(actor: Actor, own: { address: string; gateway: string; mac: string }) {
    this.actor = actor;
    this.address = own.address;
    this.gateway = own.gateway;
    this.mac = own.mac;
  }

  exchange(host: string, port: number, text?: string): Promise<CallOutcome> {
    return this.actor.ask('exchange', { host, port, text });
  }

  tls(host: string, servername?: string, text?: string): Promise<CallOutcome> {
    return this.actor.ask('exchangeTls', { host, port: 443, servername, text });
  }

  https(host: string, servername: string, ca: string, text: string): Promise<CallOutcome> {
    return this.actor.ask('exchangeHttps', { host, port: 443, servername, ca, text });
  }

  datagram(host: string, port: number, text: string): Promise<CallOutcome> {
    return this.actor.ask('datagram', { host, port, text });
  }

  name(name: string, more: { server?: string; type?: number; transport?: 'udp' | 'tcp' } = {}) {
    const { server = this.gateway, type = 1, transport = 'udp' } = more;
    return this.actor.ask<DnsOutcome>('askName', { server, name, type, transport });
  }

  /** Bypasses the guest's own kernel. */
  frame(frame: Partial<UdpFrame> & Pick<UdpFrame, 'to' | 'port' | 'text'>): Promise<unknown> {
    const own = { fromMac: this.mac, toMac: GATEWAY_MAC, from: this.address };
    return this.actor.ask('frame', { ...own, ...frame });
  }
}

export interface LeasedGuest {
  readonly id: SandboxId;
  readonly guest: Guest;
  readonly lease: NetworkLease;
}

export interface World extends AsyncDisposable {
  readonly network: HostNetwork;
  readonly internet: Actor;
  /** A guest behind an ordinary TAP, for positive controls. */
  readonly plain: Guest;
  guest(policy: EgressPolicyText, secrets?: EgressSecrets, limits?: LeaseLimits): Promise<LeasedGuest>;
  /** Starts to watch arrivals. @returns a function that reads those since then */
  watch(): Promise<() => Promise<readonly Arrival[]>>;
}

/**
 * @param internet the role of the uplink's other end: a file of this folder, or a path
 * @throws NetError, LinkError; Error if a process of the world did not start
 */
export async function createWorld(log: Log, internet = './internet.ts'): Promise<World> {
  const stack = new AsyncDisposableStack();
  try {
    const stateDir = mkdtempSync(join(tmpdir(), 'nv-prove-'));
    stack.defer(() => rmSync(stateDir, { recursive: true, force: true }));
    const links = stack.use(new Links());
    const outside = stack.use(joinInternet(links, internet));
    const hostArrivals: Arrival[] = [];
    for (const server of await hostServers(hostArrivals)) stack.defer(() => closeServer(server));
    await outside.ask('ready');
    const upstreams = [{ address: UPSTREAM, port: 53 }];
    const network = stack.use(await openHostNetwork({ pool: POOL, stateDir, upstreams, log }));
    const plain = await plugPlain(stack, links);
    const silenceMs = silenceFor(await answerMs(plain));
    setSilence(silenceMs);
    await plain.actor.ask('silence', { ms: silenceMs });
    const world: World = {
      network,
      internet: outside,
      plain,
      guest: async (policy, ...terms) => {
        const leased = await leaseGuest(stack, network, policy, ...terms);
        await leased.guest.actor.ask('silence', { ms: silenceMs });
        return leased;
      },
      watch: async () => {
        const arrivals = () => outside.ask<readonly Arrival[]>('arrivals');
        const before = (await arrivals()).length;
        const inside = hostArrivals.length;
        return async () => [...(await arrivals()).slice(before), ...hostArrivals.slice(inside)];
      },
      [Symbol.asyncDispose]: () => stack.disposeAsync(),
    };
    return world;
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

/** Passes the descriptor of our TAP to the other end, as to a VMM. */
function joinInternet(links: Links, role: string): Actor {
  const loopback = links.find('lo')?.index ?? 0;
  links.change(loopback, { up: true });
  for (const address of [HOST_AGENT, HOST_PUBLIC.address]) {
    links.addAddress({ linkIndex: loopback, address, prefixLength: 32 });
  }
  const fd = createTap({ name: 'up0' });
  const linkIndex = links.find('up0')?.index ?? 0;
  links.addAddress({ linkIndex, address: HOST_UPLINK, prefixLength: UPLINK_PREFIX });
  links.change(linkIndex, { up: true });
  links.addRoute({ destination: '0.0.0.0/0', gateway: UPSTREAM, linkIndex });
  const internet = new Actor(role, fd);
  closeFd(fd);
  return internet;
}

async function plugPlain(stack: AsyncDisposableStack, links: Links): Promise<Guest> {
  const fd = createTap({ name: 'plain0' });
  const link = links.find('plain0');
  const linkIndex = link?.index ?? 0;
  links.change(linkIndex, { mac: GATEWAY_MAC });
  links.addAddress({ linkIndex, address: PLAIN.host, prefixLength: 30 });
  links.change(linkIndex, { up: true });
  links.setNeighbor(linkIndex, PLAIN.guest, PLAIN.mac);
  const actor = stack.use(new Actor('./guest.ts', fd));
  closeFd(fd);
  const own = { address: PLAIN.guest, gateway: PLAIN.host, mac: PLAIN.mac };
  return await plug(actor, own);
}

/** @returns the longest of a few answers of the host to a guest; the first one also compiles the code */
async function answerMs(guest: Guest): Promise<number> {
  const times: number[] = [];
  for (let n = 0; n <= ANSWERS; n += 1) {
    const begunMs = performance.now();
    await guest.exchange(guest.gateway, HOST_PORT);
    times.push(performance.now() - begunMs);
  }
  return Math.max(...times.slice(1));
}

async function leaseGuest(
  stack: AsyncDisposableStack,
  network: HostNetwork,
  policy: EgressPolicyText,
  secrets?: EgressSecrets,
  limits: LeaseLimits = {},
): Promise<LeasedGuest> {
  const sandboxId = newSandboxId();
  const lease = await network.lease({ sandboxId, policy: parsePolicy(policy), secrets, limits });
  const actor = stack.use(new Actor('./guest.ts', lease.tapFd));
  const { address, gateway, mac } = lease.guest;
  const guest = await plug(actor, { address, gateway, mac });
  await lease.confirmHandover();
  return { id: sandboxId, guest, lease };
}

/** Plugs the card of a guest's process. */
export async function plug(actor: Actor, own: { address: string; gateway: string; mac: string }): Promise<Guest> {
  const gateway = { address: own.gateway, mac: GATEWAY_MAC };
  await actor.ask('plug', { mac: own.mac, address: own.address, prefixLength: 30, gateway });
  return new Guest(actor, own);
}

async function hostServers(arrivals: Arrival[]): Promise<Server[]> {
  const note = (to: string | undefined, port: number): void => {
    arrivals.push({ protocol: 'tcp', to: to ?? '', port, text: '' });
  };
  const agent = createHttpServer((_request, response) => response.end(`${SECRET}\n`));
  agent.on('connection', (socket) => note(socket.localAddress, 80));
  const panel = createServer((socket) => {
    note(socket.localAddress, 80);
    socket.on('error', (error) => ignore(error, 'the caller broke its connection'));
    socket.end('hello\n');
  });
  const service = createServer((socket) => {
    note(socket.localAddress, HOST_PORT);
    socket.on('error', (error) => ignore(error, 'the caller broke its connection'));
    socket.end('hello\n');
  });
  await Promise.all([
    new Promise<void>((resolve) => agent.listen(80, HOST_AGENT, resolve)),
    new Promise<void>((resolve) => panel.listen(80, HOST_PUBLIC.address, resolve)),
    new Promise<void>((resolve) => service.listen(HOST_PORT, '0.0.0.0', resolve)),
  ]);
  return [agent, panel, service];
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    if ('closeAllConnections' in server && typeof server.closeAllConnections === 'function')
      server.closeAllConnections();
  });
}

export type { ConnectionTry };
