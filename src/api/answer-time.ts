/** When an agent first answers on a connection that carries one operation, whose bytes nobody else here reads. */
import type { Duplex } from 'node:stream';

const NEWLINE = 0x0a;

export interface Meter {
  /** Monotonic milliseconds. */
  now(): number;
  /** Told once, how long it took. */
  answered(ms: number): void;
}

export interface Tunnel {
  readonly client: Duplex;
  /** Speaks first: one line, the channel's `OK`, which is no answer yet. */
  readonly guest: Duplex;
  /** What the client had sent already. */
  readonly head: Uint8Array;
}

/** From the request's first byte to the first byte of the answer. */
export function watchAnswer({ client, guest, head }: Tunnel, meter: Meter): void {
  let askedMs: number | undefined = head.length > 0 ? meter.now() : undefined;
  let isOpen = false;
  const onAsked = (): void => {
    askedMs ??= meter.now();
    client.off('data', onAsked);
  };
  const onSaid = (bytes: Uint8Array): void => {
    const line = isOpen ? -1 : bytes.indexOf(NEWLINE);
    if (!isOpen && line < 0) return;
    isOpen = true;
    if (line + 1 >= bytes.length) return;
    guest.off('data', onSaid);
    client.off('data', onAsked);
    if (askedMs !== undefined) meter.answered(meter.now() - askedMs);
  };
  client.on('data', onAsked);
  guest.on('data', onSaid);
}
