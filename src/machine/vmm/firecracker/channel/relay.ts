/**
 * A relay between a channel and Firecracker's vsock device, which has no limits:
 *
 *     host program ──► <channel>          relay ──► <inner>           Firecracker ──► guest
 *     host program ◄── <channel>_<port>   relay ◄── <inner>_<port>    Firecracker ◄── guest
 *
 * Both are unix sockets in Firecracker's convention. `<inner>` is the channel path that Firecracker gets. Bytes pass
 * unchanged, in a thread (`relay-host.ts`); each direction, and each new connection, waits for the tokens of its bucket.
 */
import { chmod, readdir, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { ChannelLimits, ChannelStats } from '../../../../base/channel.ts';
import { bucketLimitProblem } from '../../../../base/token-bucket.ts';
import { listenUnix } from '../../../../sys/socket.ts';
import { VmmError } from '../../errors.ts';
import { channelNameOf, removeStaleSocket } from '../place.ts';

/** The same as Node's servers: Firecracker refuses its guest when the backlog is full. */
const BACKLOG = 511;
/** File name of `<inner>`: as short as possible, so that it fits wherever a channel name does. */
const INNER_NAME = 'c';

/** One channel in the thread. Each promise resolves with the counters, or rejects with VmmError `vm_gone`. */
export interface RelayPort {
  /**
   * @param fd owned by the thread from now on. @param hostPath target of its connections; `null`: they come from host
   * programs
   */
  listen(fd: number, hostPath: string | null): void;
  setLimits(limits: ChannelLimits): Promise<ChannelStats>;
  stats(): Promise<ChannelStats>;
  disconnect(): Promise<ChannelStats>;
  /** Call no method after it. */
  close(): Promise<ChannelStats>;
}

export class ChannelRelay {
  /** Path of Firecracker's socket. */
  readonly innerPath: string;
  readonly #outerPath: string;
  readonly #port: RelayPort;
  readonly #listeners = new Set<string>();
  readonly #broken = Promise.withResolvers<VmmError>();
  #failure: VmmError | undefined;
  #closing: Promise<ChannelStats> | undefined;

  /** @throws VmmError `vm_spec_invalid` */
  constructor(
    channelPath: string,
    limits: ChannelLimits,
    open: (innerPath: string, broken: (error: VmmError) => void) => RelayPort,
  ) {
    checkLimits(limits);
    if (channelNameOf({ channelPath }) === INNER_NAME) {
      throw new VmmError('vm_spec_invalid', "the VM's channelPath can't be used", {
        cause: `${INNER_NAME} is Firecracker's end of it`,
      });
    }
    this.#outerPath = channelPath;
    this.innerPath = join(dirname(channelPath), INNER_NAME);
    this.#port = open(this.innerPath, (error) => {
      this.#failure = error;
      this.#broken.resolve(error);
    });
  }

  /** Resolves if the relay fails by itself; all its connections are closed then, and the VM is unusable. */
  get broken(): Promise<VmmError> {
    return this.#broken.promise;
  }

  /** The reason of the failure, if it has failed. */
  get failure(): VmmError | undefined {
    return this.#failure;
  }

  /** Listens for Firecracker at each port that now has a host listener. @throws VmmError `vmm_start_failed` */
  async prepare(): Promise<void> {
    const prefix = `${basename(this.#outerPath)}_`;
    await removeStaleSocket(this.#outerPath);
    for (const name of await readdir(dirname(this.#outerPath))) {
      const port = name.startsWith(prefix) ? name.slice(prefix.length) : '';
      if (!/^\d{1,10}$/.test(port)) continue;
      const path = `${this.innerPath}_${port}`;
      await removeStaleSocket(path);
      this.#listen(path, `${this.#outerPath}_${port}`);
    }
  }

  /** Opens the channel to host programs. */
  async connect(): Promise<void> {
    this.#listen(this.#outerPath, null);
    await chmod(this.#outerPath, 0o600);
  }

  /** Closes the channel to host programs and ends all connections. Idempotent. */
  async disconnect(): Promise<void> {
    await this.#live().disconnect();
    this.#listeners.delete(this.#outerPath);
    await rm(this.#outerPath, { force: true });
  }

  /** Applies to open connections too. @throws VmmError `vm_spec_invalid`, with nothing changed; `vm_gone` */
  async setLimits(limits: ChannelLimits): Promise<void> {
    checkLimits(limits);
    await this.#live().setLimits(limits);
  }

  /** Works also after `close`. @throws VmmError `vm_gone` */
  async stats(): Promise<ChannelStats> {
    return await (this.#closing ?? this.#live().stats());
  }

  /** Idempotent. */
  async close(): Promise<void> {
    if (this.#failure === undefined) {
      this.#closing ??= this.#port.close();
      // A relay that has just failed is closed, too.
      await this.#closing.catch(() => undefined);
    }
    for (const path of this.#listeners) await rm(path, { force: true });
    this.#listeners.clear();
  }

  /** @throws VmmError `vm_gone` */
  #live(): RelayPort {
    if (this.#failure !== undefined) throw this.#failure;
    return this.#port;
  }

  #listen(path: string, hostPath: string | null): void {
    const port = this.#live();
    let fd: number;
    try {
      fd = listenUnix(path, BACKLOG);
    } catch (cause) {
      throw new VmmError('vmm_start_failed', `could not listen at ${path}`, { cause });
    }
    this.#listeners.add(path);
    port.listen(fd, hostPath);
  }
}

function checkLimits(limits: ChannelLimits): void {
  for (const name of ['guestToHostBytes', 'hostToGuestBytes', 'connections'] as const) {
    const limit = limits[name];
    const cause = limit === undefined ? undefined : bucketLimitProblem(limit);
    if (cause === undefined) continue;
    throw new VmmError('vm_spec_invalid', `the VM's channelLimits can't be used`, { cause: `${name}: ${cause}` });
  }
}
