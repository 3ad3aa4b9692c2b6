/**
 * Links, addresses, routes and neighbors of this network namespace, by rtnetlink and without a child process:
 *
 *     Links ── rtnetlink-{link,address,route,neighbor} ── attribute                 requests
 *       └───── exchange ── message                                                  request and answer
 *       └───── sys/netlink-socket                                                   bytes
 *
 * Every call is synchronous and takes tens of microseconds. Links are addressed by index, which the kernel does not
 * reuse: a link that was removed and created again under the same name is `not_found`.
 */

import { SyscallError } from '../../../sys/libc.ts';
import { NetlinkSocket } from '../../../sys/netlink-socket.ts';
import { inNetworkNamespace } from '../../../sys/network-namespace.ts';
import { LinkError, linkError } from '../netlink/errors.ts';
import { type ExchangeOutcome, NetlinkExchange } from '../netlink/exchange.ts';
import type { Message } from '../netlink/message.ts';
import type { Request } from '../netlink/request.ts';
import { dumpAddresses, type LinkAddress, newAddress, parseAddress } from '../netlink/rtnetlink-address.ts';
import {
  attachXdp,
  changeLink,
  deleteGroup,
  deleteLink,
  dumpLinks,
  getLink,
  type Link,
  type LinkChange,
  moveLink,
  newLink,
  parseLink,
} from '../netlink/rtnetlink-link.ts';
import { setNeighbor } from '../netlink/rtnetlink-neighbor.ts';
import {
  dumpRoutes,
  lookUpRoute,
  MAIN_TABLE,
  newRoute,
  parseRoute,
  type Route,
  type RouteSpec,
} from '../netlink/rtnetlink-route.ts';
import { type LinkOwner, parseOwner } from './owner.ts';

const DUMP_ATTEMPTS_MAX = 8;

export interface NetlinkTransport {
  readonly portId: number;
  send(request: Uint8Array): void;
  /** @returns undefined if nothing is queued */
  receive(): Uint8Array | undefined;
  close(): void;
}

interface OwnedLink {
  readonly link: Link;
  readonly owner: LinkOwner;
}

/** Every method throws `LinkError`. */
export class Links {
  readonly #transport: NetlinkTransport;
  #sequence = 0;

  constructor(transport: NetlinkTransport = openSocket()) {
    this.#transport = transport;
  }

  list(): Link[] {
    return this.#dump('list links', dumpLinks(), parseLink);
  }

  /** Links created by NeuroVisor, in this process or another. */
  owned(): OwnedLink[] {
    return this.list().flatMap((link) => {
      const owner = parseOwner(link.alias);
      return owner === undefined ? [] : [{ link, owner }];
    });
  }

  find(which: string | number): Link | undefined {
    try {
      const [message] = this.#ask(`find link ${which}`, getLink(which));
      return message && parseLink(message.body);
    } catch (error) {
      if (error instanceof LinkError && error.code === 'not_found') return undefined;
      throw error;
    }
  }

  /** If the kernel refuses a part, earlier parts stay applied. */
  change(linkIndex: number, change: LinkChange): void {
    const fields = Object.entries(change).map(([field, value]) => `${field} ${value}`);
    this.#ask(`set ${fields.join(', ')} of link ${linkIndex}`, changeLink(linkIndex, change));
  }

  /** See `attachXdp`. @param programFd from `loadXdp`; may be closed afterwards */
  attachXdp(linkIndex: number, programFd: number): void {
    this.#ask(`attach an XDP program to link ${linkIndex}`, attachXdp(linkIndex, programFd));
  }

  /** Creates a link without a device, e.g. of kind `dummy`. For TAPs use `openTap`. */
  create(name: string, kind: string): Link {
    this.#ask(`create link ${name} of kind ${kind}`, newLink(name, kind));
    const link = this.find(name);
    if (link === undefined) throw new LinkError('not_found', `find link ${name} after its creation`);
    return link;
  }

  remove(linkIndex: number): void {
    this.#ask(`remove link ${linkIndex}`, deleteLink(linkIndex));
  }

  /**
   * Removes the links of a group at once, on another thread: it takes tens of milliseconds.
   * @throws LinkError `not_found` if there is none
   */
  async removeGroup(group: number): Promise<void> {
    // Uses a separate socket, since ours is in use meanwhile.
    await askOffThread(`remove the links of group ${group}`, deleteGroup(group), openSocket());
  }

  /** @param linkIndex 0 for all links */
  addresses(linkIndex = 0): LinkAddress[] {
    return this.#dump('list addresses', dumpAddresses(linkIndex), parseAddress).filter(
      (address) => linkIndex === 0 || address.linkIndex === linkIndex,
    );
  }

  addAddress(address: LinkAddress): void {
    this.#ask(`add ${nameOf(address)}`, newAddress(address));
  }

  /** Empty for a table that never had a route. */
  routes(family: 'ipv4' | 'ipv6' = 'ipv4', table = MAIN_TABLE): Route[] {
    try {
      const all = this.#dump('list routes', dumpRoutes(family, table), parseRoute);
      return all.filter((route) => route.table === table);
    } catch (error) {
      if (error instanceof LinkError && error.code === 'not_found') return [];
      throw error;
    }
  }

  /** The route of this host's packets to an address; undefined if there is none. */
  routeTo(address: string): Route | undefined {
    try {
      const [message] = this.#ask(`look up the route to ${address}`, lookUpRoute(address));
      return message && parseRoute(message.body);
    } catch (error) {
      if (error instanceof LinkError && error.code === 'unreachable') return undefined;
      throw error;
    }
  }

  addRoute(route: RouteSpec): void {
    this.#ask(`add route ${route.destination} by link ${route.linkIndex}`, newRoute(route));
  }

  /** A permanent entry: no packet waits for ARP, and no ARP answer can replace it. */
  setNeighbor(linkIndex: number, address: string, mac: string): void {
    const attempt = `set ${address} at ${mac} on link ${linkIndex}`;
    this.#ask(attempt, setNeighbor(linkIndex, address, mac));
  }

  close(): void {
    this.#transport.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #dump<T>(attempt: string, request: Request, parse: (body: Uint8Array) => T | undefined): T[] {
    for (let tries = 0; tries < DUMP_ATTEMPTS_MAX; tries += 1) {
      const { messages, interrupted } = this.#exchange(attempt, request);
      if (interrupted) continue;
      return messages.flatMap(({ body }) => {
        const entry = parse(body);
        return entry === undefined ? [] : [entry];
      });
    }
    const why = new Error(`the table changed during each of ${DUMP_ATTEMPTS_MAX} readings`);
    throw new LinkError('unreadable', attempt, { cause: why, remedy: 'Try again.' });
  }

  #ask(attempt: string, request: Request): readonly Message[] {
    return this.#exchange(attempt, request).messages;
  }

  #exchange(attempt: string, request: Request): Done {
    return resultOf(attempt, this.#answer(attempt, request));
  }

  #answer(attempt: string, request: Request): ExchangeOutcome {
    this.#sequence = (this.#sequence + 1) >>> 0;
    const exchange = new NetlinkExchange(request, this.#sequence, this.#transport.portId);
    try {
      this.#transport.send(exchange.output);
      for (;;) {
        if (exchange.outcome !== undefined) return exchange.outcome;
        const datagram = this.#transport.receive();
        if (datagram === undefined) throw new LinkError('malformed', `${attempt}: incomplete answer`);
        exchange.receive(datagram);
      }
    } catch (error) {
      if (error instanceof SyscallError) throw linkError(attempt, error.code, error);
      throw error;
    }
  }
}

/**
 * Moves a link between network namespaces, on another thread: it takes 20 ms. See `moveLink`.
 * @param fromFd current namespace
 * @throws LinkError `not_found`; `busy`, `exists` if its index or name is taken there
 */
export async function moveBetween(linkIndex: number, fromFd: number, toFd: number): Promise<void> {
  const attempt = `move link ${linkIndex} to another network namespace`;
  const socket = inNamespace(attempt, fromFd);
  await askOffThread(attempt, moveLink(linkIndex, toFd), socket);
}

function inNamespace(attempt: string, fd: number): NetlinkSocket {
  try {
    return inNetworkNamespace(fd, openSocket);
  } catch (error) {
    throw error instanceof SyscallError ? linkError(attempt, error.code, error) : error;
  }
}

/** For slow requests. Closes the socket. */
async function askOffThread(attempt: string, request: Request, socket: NetlinkSocket): Promise<void> {
  try {
    const exchange = new NetlinkExchange(request, 1, socket.portId);
    await socket.sendOffThread(exchange.output);
    for (let datagram = socket.receive(); datagram; datagram = socket.receive()) exchange.receive(datagram);
    resultOf(attempt, exchange.outcome);
  } catch (error) {
    throw error instanceof SyscallError ? linkError(attempt, error.code, error) : error;
  } finally {
    socket.close();
  }
}

type Done = Extract<ExchangeOutcome, { kind: 'done' }>;

function resultOf(attempt: string, outcome: ExchangeOutcome | undefined): Done {
  if (outcome === undefined) throw new LinkError('malformed', `${attempt}: incomplete answer`);
  if (outcome.kind === 'done') return outcome;
  const { errno, text } = outcome.acknowledgement;
  const cause = new SyscallError(text === undefined ? 'kernel' : `kernel, "${text}"`, errno);
  throw linkError(attempt, cause.code, cause);
}

function nameOf({ address, prefixLength, linkIndex }: LinkAddress): string {
  return `address ${address}/${prefixLength} of link ${linkIndex}`;
}

function openSocket(): NetlinkSocket {
  try {
    return new NetlinkSocket();
  } catch (error) {
    if (error instanceof SyscallError) throw linkError('open a netlink socket', error.code, error);
    throw error;
  }
}
