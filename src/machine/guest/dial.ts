/** Opens connections to the agent's operations: any byte stream that starts with `OK <n>`. */
import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import { PORTS } from './limits.ts';

/**
 * Opens a connection for one operation. The stream must support half-closes, and accept writes immediately. A rejection
 * or an error of the stream fails the operation; a GuestError is passed through unchanged.
 * @param signal aborts when the connection is no longer wanted
 */
export type Dial = (signal?: AbortSignal) => Duplex | Promise<Duplex>;

/** Dials through the channel's unix socket on this machine (`spec/guest-protocol.md`, section 1). */
export function dialChannel(channelPath: string): () => Duplex {
  return () => {
    const socket = connect({ path: channelPath, allowHalfOpen: true });
    socket.write(`CONNECT ${PORTS.operations}\n`);
    return socket;
  };
}
