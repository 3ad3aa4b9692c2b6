/**
 * A link that passes nothing and holds the XDP program of this process as long as it has a network (io).
 * Without it the first sandbox would pay for the program's way into the kernel, and the last for its way out
 * (`metadata-guard.ts`): for sandboxes one after the other, each of them both.
 */
import { close } from 'node:fs';
import { promisify } from 'node:util';
import { CodedError, describeError, errorCode } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { createTap } from '../../sys/tun.ts';
import { TAP_PREFIX } from '../addresses/address-plan.ts';
import type { Links } from '../link/links.ts';
import type { MetadataGuards } from './metadata-guard.ts';

/** The number of the process follows. The packet filter knows no TAP of that name, and it is never up. */
export const ANCHOR_PREFIX = `${TAP_PREFIX}xdp`;
const closeOffThread = promisify(close);

export class XdpAnchor {
  readonly #links: Links;
  readonly #guards: MetadataGuards;
  readonly #name: string;
  readonly #log: Log;
  #fd: number | undefined;
  #isTried = false;

  constructor(links: Links, guards: MetadataGuards, pid: number, log: Log) {
    this.#links = links;
    this.#guards = guards;
    this.#name = `${ANCHOR_PREFIX}${pid}`;
    this.#log = log;
  }

  /** Once, and only for speed: where it can't be had, nothing is missing. */
  hold(): void {
    if (this.#isTried) return;
    this.#isTried = true;
    try {
      this.#fd = createTap({ name: this.#name });
      const link = this.#links.find(this.#name);
      if (link !== undefined) this.#guards.attach(link.index);
    } catch (error) {
      // Of the kernel, e.g. that somebody in another pid namespace has the name.
      if (!(error instanceof CodedError) && errorCode(error) === undefined) throw error;
      this.#log.debug('keep an XDP program', { error: describeError(error) });
    }
  }

  /** The kernel removes the link with it, by whatever death of ours. Fine when there is none. */
  async close(): Promise<void> {
    const fd = this.#fd;
    this.#fd = undefined;
    this.#isTried = true;
    if (fd !== undefined) await closeOffThread(fd);
  }
}
