/** Lets one process at a time change shared state: the owners of addresses and of the packet filter (io). */
import { closeSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { ignore } from '../../base/ignore.ts';
import { lockFile } from '../../sys/file-lock.ts';
import { NetError } from './errors.ts';

/** The lock is held for one run of `nft`, which takes milliseconds, or for a loan of at most 20 s (`tap-loan.ts`). */
const WAIT_MS_MAX = 30_000;

export class HostLock {
  readonly #path: string;
  #tail: Promise<unknown> = Promise.resolve();

  /** @param stateDir equal for all processes of the host; created if missing */
  constructor(stateDir: string) {
    const namespace = /\d+/.exec(readlinkSync('/proc/self/ns/net'))?.[0] ?? '';
    this.#path = join(stateDir, `network-${namespace}.lock`);
  }

  /** Calls of one object queue. @throws NetError `host_state`, and what `work` throws */
  hold<T>(work: () => Promise<T> | T): Promise<T> {
    const turn = this.#tail.then(async () => {
      const fd = await this.#lock();
      try {
        return await work();
      } finally {
        closeSync(fd);
      }
    });
    this.#tail = turn.catch((error: unknown) => ignore(error, 'the caller has it'));
    return turn;
  }

  async #lock(): Promise<number> {
    const attempt = `lock the network of this host (${this.#path})`;
    let fd: number | undefined;
    try {
      fd = await lockFile(this.#path, WAIT_MS_MAX);
    } catch (cause) {
      const remedy = 'Run NeuroVisor as root, or create the sandbox without a network.';
      throw new NetError('host_state', attempt, { cause, remedy });
    }
    if (fd !== undefined) return fd;
    const remedy = 'End the other NeuroVisor process, which hangs, then try again.';
    throw new NetError('host_state', attempt, { remedy });
  }
}
