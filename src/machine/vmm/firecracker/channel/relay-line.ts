/** The first line of a stream, `CONNECT <port>\n` or its answer `OK <port>\n`. Firecracker checks the content. */

/** Maximum length of a line, including its line feed. */
export const LINE_BYTES_MAX = 64;
const LINE_FEED = 10;

/**
 * @param bytes received so far, from the first byte; may go beyond the line
 * @returns length of the line including its line feed; `null` if there can be none; undefined if incomplete
 */
export function lineLength(bytes: Uint8Array): number | null | undefined {
  const length = bytes.indexOf(LINE_FEED) + 1;
  if (length > LINE_BYTES_MAX) return null;
  if (length > 0) return length;
  return bytes.length >= LINE_BYTES_MAX ? null : undefined;
}
