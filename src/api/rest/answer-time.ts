/** Measures the agent's answer time on a tunnel, whose bytes are otherwise not read here. */
import type { Duplex } from 'node:stream';

const NEWLINE = 0x0a;

export interface Meter {
  /** Monotonic. */
  now(): number;
  answered(ms: number): void;
}

export interface Tunnel {
  readonly client: Duplex;
  /** First sends the channel's `OK` line, which does not count as an answer. */
  readonly guest: Duplex;
  /** Bytes that the client sent before the upgrade was complete. */
  readonly head: Uint8Array;
}

export function watchAnswer({ client, guest, head }: Tunnel, meter: Meter): void {
  let requestedMs: number | undefined = head.length > 0 ? meter.now() : undefined;
  let isOpen = false;
  const onRequest = (): void => {
    requestedMs ??= meter.now();
    client.off('data', onRequest);
  };
  const onResponse = (bytes: Uint8Array): void => {
    const line = isOpen ? -1 : bytes.indexOf(NEWLINE);
    if (!isOpen && line < 0) return;
    isOpen = true;
    if (line + 1 >= bytes.length) return;
    guest.off('data', onResponse);
    client.off('data', onRequest);
    if (requestedMs !== undefined) meter.answered(meter.now() - requestedMs);
  };
  client.on('data', onRequest);
  guest.on('data', onResponse);
}
