/**
 * A link without traffic that keeps this process's XDP program attached (io). Otherwise the first sandbox would wait
 * for the program to be installed and the last for its removal (`metadata-guard.ts`); sandboxes that run in sequence
 * would each wait for both.
 */
import { close } from 'node:fs';
import { promisify } from 'node:util';
import { CodedError, describeError, errorCode } from '../../../base/errors.ts';
import type { Log } from '../../../base/log.ts';
import { createTap } from '../../../sys/tun.ts';
import { TAP_PREFIX } from '../addresses/address-plan.ts';
import type { Links } from '../link/links.ts';
import type { MetadataGuards } from './metadata-guard.ts';

/** The pid follows. The link is never up, and no sandbox has it in the packet filter. */
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

  /** Idempotent. Only saves time, so a failure is logged and has no other effect. */
  hold(): void {
    if (this.#isTried) return;
    this.#isTried = true;
    try {
      this.#fd = createTap({ name: this.#name });
      const link = this.#links.find(this.#name);
      if (link !== undefined) this.#guards.attach(link.index);
    } catch (error) {
      // For example, a process in another pid namespace has the name.
      if (!(error instanceof CodedError) && errorCode(error) === undefined) throw error;
      this.#log.debug('keep an XDP program', { error: describeError(error) });
    }
  }

  /** Removes the link, which the kernel also does when this process dies. Idempotent. */
  async close(): Promise<void> {
    const fd = this.#fd;
    this.#fd = undefined;
    this.#isTried = true;
    if (fd !== undefined) await closeOffThread(fd);
  }
}
