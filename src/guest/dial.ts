/** How a client reaches the agent's operations: any byte stream on which `OK <n>` comes first. */
import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import { PORTS } from './limits.ts';

/**
 * A new connection for one operation. The stream must pass half-closes on; requests may be written to it
 * at once. A rejection or an error of the stream fails the operation; a GuestError does so as it is.
 */
export type Dial = () => Duplex | Promise<Duplex>;

/** Through the channel's unix socket on this machine (`spec/guest-protocol.md`, section 1). */
export function dialChannel(channelPath: string): Dial {
  return () => {
    const socket = connect({ path: channelPath, allowHalfOpen: true });
    socket.write(`CONNECT ${PORTS.operations}\n`);
    return socket;
  };
}
