/** The guest's side of its network card, leased by the host and set by the agent (types only). */
export interface GuestNetwork {
  /** The card's MAC address, which identifies it: `aa:fc:…`. */
  readonly mac: string;
  /** IPv4, dotted. */
  readonly address: string;
  readonly prefixLength: number;
  /** The host's address: next hop of all traffic, and resolver. */
  readonly gateway: string;
  /** For a permanent neighbor entry: the first ARP of a new card may be lost, which costs a second. */
  readonly gatewayMac: string;
  readonly mtu: number;
}
