/**
 * The first line of a host client on a channel (Firecracker, docs/vsock.md):
 *
 *     CONNECT <port>\n      and, when the guest has answered,      OK <port of our end>\n
 *
 * The reader peeks and consumes exactly the line, so bytes that came along in the same segment stay in the socket and are
 * the first payload.
 */
import { CONNECT_LINE_BYTES_MAX } from './limits.ts';

type ConnectLine =
  | { readonly kind: 'incomplete' }
  /** `lineBytes` includes the line feed. */
  | { readonly kind: 'connect'; readonly port: number; readonly lineBytes: number }
  | { readonly kind: 'invalid'; readonly reason: string };

const LINE_FEED = 10;
const LINE = /^CONNECT (0|[1-9][0-9]{0,9})$/;
const PORT_MAX = 0xfffffffe;

/** @param bytes received from the client so far, from the first byte; may go beyond the line */
export function parseConnectLine(bytes: Uint8Array): ConnectLine {
  const end = bytes.indexOf(LINE_FEED);
  const length = end < 0 ? bytes.length : end + 1;
  if (length > CONNECT_LINE_BYTES_MAX || (end < 0 && length >= CONNECT_LINE_BYTES_MAX))
    return { kind: 'invalid', reason: 'line too long' };
  if (end < 0) return { kind: 'incomplete' };
  const match = LINE.exec(String.fromCharCode(...bytes.subarray(0, end)));
  if (match === null) return { kind: 'invalid', reason: 'not CONNECT <port>' };
  const port = Number(match[1]);
  if (port > PORT_MAX) return { kind: 'invalid', reason: 'port out of range' };
  return { kind: 'connect', port, lineBytes: end + 1 };
}

export function okLine(hostPort: number): Uint8Array {
  return new TextEncoder().encode(`OK ${hostPort}\n`);
}
