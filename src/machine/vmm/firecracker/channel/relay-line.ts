/** The first line of a stream, `CONNECT <port>\n` or its answer `OK <port>\n`. Firecracker checks what it says. */

/** Bytes of a line with its line feed. */
export const LINE_BYTES_MAX = 64;
const LINE_FEED = 10;

/**
 * @param bytes what has come so far, from the first byte; may go beyond the line
 * @returns the bytes of the line with its line feed; null: none can follow; undefined: not complete yet
 */
export function lineLength(bytes: Uint8Array): number | null | undefined {
  const length = bytes.indexOf(LINE_FEED) + 1;
  if (length > LINE_BYTES_MAX) return null;
  if (length > 0) return length;
  return bytes.length >= LINE_BYTES_MAX ? null : undefined;
}
