/**
 * Keeps the MAC address of a new TAP. systemd-udevd gives every new virtual link a MAC of its own (systemd.link(5),
 * MACAddressPolicy=persistent, Debian's default), unless one has been set when it looks. It looks and changes within
 * some milliseconds after the link is created, so it may have looked before us. The guest knows its gateway by its MAC,
 * and the kernel drops packets for any other.
 */
import type { Clock } from '../../../base/clock.ts';
import { ignore } from '../../../base/ignore.ts';
import type { Log } from '../../../base/log.ts';
import type { Links } from './links.ts';

/** Milliseconds between checks: soon, for a fast guest; and late, for a slow host. */
const LOOKS_MS = [5, 15, 40, 100, 300, 1_000, 3_000] as const;

/** @returns function that ends it */
export function keepMac(
  { links, clock, log }: { links: Pick<Links, 'find' | 'change'>; clock: Clock; log: Log },
  linkIndex: number,
  mac: string,
): () => void {
  let cancel = (): void => undefined;
  const look = (): void => {
    try {
      const link = links.find(linkIndex);
      // Undefined while the link is in a VMM's namespace.
      if (link === undefined || link.mac === mac) return;
      links.change(linkIndex, { mac });
      log.debug('another program changed the MAC of a TAP', { name: link.name, from: link.mac });
    } catch (error) {
      ignore(error, 'the TAP is gone');
    }
  };
  const plan = (count: number): void => {
    const delayMs = LOOKS_MS[count];
    if (delayMs === undefined) return;
    cancel = clock.after(delayMs, () => {
      look();
      plan(count + 1);
    });
  };
  plan(0);
  return () => cancel();
}
