/**
 * Reads and drops what a client still sends after its early answer (I/O). A close with unread bytes resets the
 * connection, and the client would lose the answer (RFC 9112 section 9.6).
 */
import type { Readable } from 'node:stream';
import type { Clock } from './clock.ts';

export interface DropLimits {
  /** Maximum bytes to drop. */
  readonly lingerBytesMax: number;
  /** Maximum time to read and drop. */
  readonly lingerTimeoutMs: number;
}

/** Calls `onEnd` once: at the end of the input, or beyond a limit. */
export function dropInput(
  input: Readable,
  { clock, limits }: { readonly clock: Clock; readonly limits: DropLimits },
  onEnd: () => void,
): void {
  let bytes = 0;
  let ended = false;
  const finish = (): void => {
    if (ended) return;
    ended = true;
    stop();
    onEnd();
  };
  const stop = clock.after(limits.lingerTimeoutMs, finish);
  input.on('data', (piece: Buffer) => {
    bytes += piece.length;
    if (bytes > limits.lingerBytesMax) finish();
  });
  for (const event of ['end', 'close', 'error']) input.once(event, finish);
  input.resume();
}
