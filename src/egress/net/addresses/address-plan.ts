/**
 * Assigns addresses: a /30 for each sandbox, so that no two share a link. Pure: keeps a table in memory; addresses in
 * use on the host are arguments.
 *
 *     pool 10.201.0.0/16    /30 number n      network   host (TAP)   guest      broadcast
 *                           10.201.0.0/30     .0        .1           .2         .3
 */
import { createHash } from 'node:crypto';
import type { SandboxId } from '../../../base/ids.ts';
import { NetError } from '../errors.ts';
import { type Cidr, cidrsOverlap, formatAddress, formatCidr, parseCidr } from './addresses.ts';
import { reservedRangeOf } from './metadata.ts';

/** Private (RFC 1918), and no default of Docker, libvirt, LXD, Podman or minikube. */
export const POOL_DEFAULT = '10.201.0.0/16';
export const POOL_SETTING = 'NEUROVISOR_NET_POOL';
export const SUBNET_PREFIX = 30;
/** A /8 has four million subnets. */
const POOL_PREFIX_MIN = 8;
/** Reserved for our TAPs: the packet filter blocks any other link with this prefix. */
export const TAP_PREFIX = 'nv-';
const TAP_ID_CHARACTERS = 8;

/**
 * The host's MAC on every TAP. Equal everywhere, so that a guest's ARP entry for its gateway stays valid on any
 * TAP that it resumes with.
 */
export const GATEWAY_MAC = 'aa:fd:00:00:00:01';

export interface AddressLease {
  readonly id: SandboxId;
  readonly subnet: Cidr;
  readonly prefix: number;
  /** Address of the TAP: the guest's gateway and resolver. */
  readonly hostAddress: string;
  readonly guestAddress: string;
  /** `aa:fc:…`: unicast, locally administered. */
  readonly guestMac: string;
  /** At most 15 bytes (IFNAMSIZ − 1). */
  readonly tap: string;
}

export interface Occupied {
  readonly block: Cidr;
  /** For messages, e.g. `route by eth0`, `address of docker0`. */
  readonly what: string;
}

/** @throws NetError `pool_invalid` */
export function parsePool(text: string): Cidr {
  const reading = parseCidr(text);
  const remedy = `Set ${POOL_SETTING} to a private IPv4 block, e.g. ${POOL_DEFAULT}.`;
  const invalid = (why: string): NetError =>
    new NetError('pool_invalid', `address pool ${JSON.stringify(text)} ${why}`, { remedy });
  if (!reading.ok) throw invalid(reading.reason);
  const pool = reading.cidr;
  if (pool.family !== 4) throw invalid('is not IPv4');
  if (pool.prefix < POOL_PREFIX_MIN) throw invalid(`is larger than a /${POOL_PREFIX_MIN}`);
  if (pool.prefix > SUBNET_PREFIX) throw invalid(`has no room for a /${SUBNET_PREFIX}`);
  const range = reservedRangeOf({ family: 4, value: pool.base });
  const usable = ['private', 'shared by carriers (CGNAT)', 'benchmarks'];
  if (range === undefined || !usable.includes(range.name)) throw invalid('is not private');
  if (pool.prefix < range.block.prefix) throw invalid('is larger than the private range it is in');
  return pool;
}

/**
 * The host's routes and addresses that overlap the pool. The default route is no conflict; the caller must exclude its
 * own leases.
 */
export function poolConflicts(pool: Cidr, occupied: readonly Occupied[]): readonly Occupied[] {
  return occupied.filter(({ block }) => block.prefix > 0 && cidrsOverlap(pool, block));
}

/** @throws NetError `pool_conflict` */
export function assertPoolFree(pool: Cidr, occupied: readonly Occupied[]): void {
  const [first] = poolConflicts(pool, occupied);
  if (first === undefined) return;
  throw new NetError(
    'pool_conflict',
    `address pool ${formatCidr(pool)} overlaps ${formatCidr(first.block)} (${first.what}) of this host`,
    { remedy: `Set ${POOL_SETTING} to a private block that this host does not use.` },
  );
}

export class AddressPlan {
  readonly pool: Cidr;
  readonly #subnets: number;
  readonly #leases = new Map<SandboxId, AddressLease>();
  readonly #usedSubnets = new Set<number>();
  readonly #usedTaps = new Set<string>();
  /** Advances with each lease, so that a released address is reused late. */
  #next = 0;

  /** @throws NetError `pool_invalid` */
  constructor(pool: string = POOL_DEFAULT) {
    this.pool = parsePool(pool);
    this.#subnets = 2 ** (SUBNET_PREFIX - this.pool.prefix);
  }

  get capacity(): number {
    return this.#subnets;
  }

  /**
   * Returns the existing lease if there is one.
   * @param isTaken returns true if another process of this host has the subnet
   * @throws NetError `pool_exhausted`
   */
  lease(id: SandboxId, isTaken: (subnet: Cidr) => boolean = () => false): AddressLease {
    const known = this.#leases.get(id);
    if (known !== undefined) return known;
    const subnet = this.#takeSubnet(id, isTaken);
    const tap = this.#takeTap(id);
    const { base } = this.#subnet(subnet);
    const lease: AddressLease = {
      id,
      subnet: this.#subnet(subnet),
      prefix: SUBNET_PREFIX,
      hostAddress: formatAddress({ family: 4, value: base + 1n }),
      guestAddress: formatAddress({ family: 4, value: base + 2n }),
      guestMac: macOf(id),
      tap,
    };
    this.#leases.set(id, lease);
    return lease;
  }

  /** Does nothing without a lease. */
  release(id: SandboxId): void {
    const lease = this.#leases.get(id);
    if (lease === undefined) return;
    this.#leases.delete(id);
    this.#usedTaps.delete(lease.tap);
    this.#usedSubnets.delete(Number(lease.subnet.base - this.pool.base) / 4);
  }

  get(id: SandboxId): AddressLease | undefined {
    return this.#leases.get(id);
  }

  leases(): readonly AddressLease[] {
    return [...this.#leases.values()];
  }

  #takeSubnet(id: SandboxId, isTaken: (subnet: Cidr) => boolean): number {
    for (let tries = 0; tries < this.#subnets; tries += 1) {
      const number = this.#next;
      this.#next = (number + 1) % this.#subnets;
      if (this.#usedSubnets.has(number) || isTaken(this.#subnet(number))) continue;
      this.#usedSubnets.add(number);
      return number;
    }
    throw new NetError(
      'pool_exhausted',
      `lease addresses to ${id}: all ${this.#subnets} of ${formatCidr(this.pool)} are in use`,
      { remedy: `End sandboxes that have a network, or set ${POOL_SETTING} to a larger block.` },
    );
  }

  #subnet(number: number): Cidr {
    const base = this.pool.base + BigInt(number * 4);
    return { family: 4, base, prefix: SUBNET_PREFIX };
  }

  /** Named by the first eight characters of the id, or of its hash in the rare case that they are taken. */
  #takeTap(id: SandboxId): string {
    let name = tapName(id, 0);
    for (let at = 1; this.#usedTaps.has(name); at += 1) name = tapName(id, at);
    this.#usedTaps.add(name);
    return name;
  }
}

function tapName(id: SandboxId, at: number): string {
  const rest = at === 0 ? id : createHash('sha256').update(`${id}:${at}`).digest('hex');
  return `${TAP_PREFIX}${rest.slice(0, TAP_ID_CHARACTERS)}`;
}

/** Bit 1 of the first byte (0xaa) marks it as locally administered; bit 0 is clear for unicast (IEEE 802, 8.2). */
export function macOf(id: SandboxId): string {
  const digest = createHash('sha256').update(id).digest();
  const tail = [...digest.subarray(0, 4)].map((byte) => byte.toString(16).padStart(2, '0'));
  return ['aa', 'fc', ...tail].join(':');
}
