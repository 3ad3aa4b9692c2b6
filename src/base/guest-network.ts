/** The guest's side of its network card: what the host leases and the agent sets (types only). */
export interface GuestNetwork {
  /** Of the card, by which it is known: `aa:fc:…`. */
  readonly mac: string;
  /** IPv4, dotted. */
  readonly address: string;
  readonly prefixLength: number;
  /** The host's side: next hop of everything, and resolver. */
  readonly gateway: string;
  /** For a permanent neighbour entry: the first ARP of a fresh card may be lost, which costs a second. */
  readonly gatewayMac: string;
  readonly mtu: number;
}
