/** `Upgrade` protocols, for server and client. */

/** The tunnel to a sandbox's agent. */
export const TUNNEL_PROTOCOL = 'neurovisor-guest';

/** A connection to a port of a sandbox's network card. */
export const PORT_PROTOCOL = 'tcp';
