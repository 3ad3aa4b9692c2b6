/**
 * A relay between a channel and Firecracker's vsock device, which has no limits (io):
 *
 *     host program ──► <channel>          relay ──► <inner>           Firecracker ──► guest
 *     host program ◄── <channel>_<port>   relay ◄── <inner>_<port>    Firecracker ◄── guest
 *
 * Both are unix sockets in Firecracker's convention. `<inner>` is the channel path that Firecracker gets. Bytes pass
 * unchanged; each direction, and each new connection, waits for the tokens of its bucket.
 */
import { chmod, readdir, rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { basename, dirname, join } from 'node:path';
import type { ChannelLimits, ChannelStats } from '../../../base/channel.ts';
import type { Clock } from '../../../base/clock.ts';
import { ignore } from '../../../base/ignore.ts';
import { bucketLimitProblem } from '../../../base/token-bucket.ts';
import { VmmError } from '../../errors.ts';
import { channelNameOf, removeStaleSocket } from '../place.ts';
import { RelayFlow } from './relay-flow.ts';
import { readLine } from './relay-line.ts';
import { TokenLine } from './token-line.ts';

/** Connections of one VM in any state; more are closed. Equal to the limit of the vsock device under QEMU. */
const CONNECTIONS_MAX = 1_024;
/** `CONNECT <port>\n`, `OK <port>\n`. */
const LINE_BYTES_MAX = 64;
/** From a client's connection to its complete line. */
const CONNECT_MS_MAX = 5_000;
/** From the line to the guest's answer. Firecracker itself times out after 2 s, unless it is compromised. */
const ANSWER_MS_MAX = 5_000;
/** File name of `<inner>`: as short as possible, so that it fits where any channel name does. */
const INNER_NAME = 'c';

export class ChannelRelay {
  /** Path of Firecracker's socket. */
  readonly innerPath: string;
  readonly #outerPath: string;
  readonly #clock: Clock;
  readonly #toGuest: RelayFlow;
  readonly #toHost: RelayFlow;
  readonly #admission: TokenLine<() => void>;
  readonly #sockets = new Set<Socket>();
  readonly #inner = new Map<string, Server>();
  #outer: Server | undefined;
  #opened = 0;
  #open = 0;
  #refused = 0;

  /** @throws VmmError `vm_spec_invalid` */
  constructor(channelPath: string, limits: ChannelLimits, clock: Clock) {
    checkLimits(limits);
    if (channelNameOf({ channelPath }) === INNER_NAME) {
      throw new VmmError('vm_spec_invalid', "the VM's channelPath can't be used", {
        cause: `${INNER_NAME} is Firecracker's end of it`,
      });
    }
    this.#outerPath = channelPath;
    this.innerPath = join(dirname(channelPath), INNER_NAME);
    this.#clock = clock;
    this.#toGuest = new RelayFlow(clock, limits.hostToGuestBytes);
    this.#toHost = new RelayFlow(clock, limits.guestToHostBytes);
    this.#admission = new TokenLine(clock, limits.connections, (admit) => {
      admit();
      return 1;
    });
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
      const take = (guest: Socket): void => this.#takeGuest(guest, `${this.#outerPath}_${port}`);
      this.#inner.set(path, await listen(path, take));
    }
  }

  /** Opens the channel to host programs. */
  async connect(): Promise<void> {
    this.#outer = await listen(this.#outerPath, (client) => this.#takeClient(client));
    await chmod(this.#outerPath, 0o600);
  }

  /** Closes the channel to host programs and ends all connections. Idempotent. */
  async disconnect(): Promise<void> {
    const ending = end(this.#outer);
    this.#outer = undefined;
    // A server ends after its connections.
    for (const socket of this.#sockets) socket.destroy();
    await ending;
  }

  /** Applies to open connections too. @throws VmmError `vm_spec_invalid`, with nothing changed */
  setLimits(limits: ChannelLimits): void {
    checkLimits(limits);
    this.#toGuest.setLimit(limits.hostToGuestBytes);
    this.#toHost.setLimit(limits.guestToHostBytes);
    this.#admission.setLimit(limits.connections);
  }

  stats(): ChannelStats {
    return {
      bytesGuestToHost: this.#toHost.bytes,
      bytesHostToGuest: this.#toGuest.bytes,
      connectionsOpened: this.#opened,
      connectionsOpen: this.#open,
      connectionsRefused: this.#refused,
      throttledMsGuestToHost: this.#toHost.throttledMs,
      throttledMsHostToGuest: this.#toGuest.throttledMs,
      // Firecracker handles protocol errors itself and does not count them.
      protocolErrors: 0,
    };
  }

  /** Idempotent. */
  async close(): Promise<void> {
    const ending = [...this.#inner.values()].map(end);
    await this.disconnect();
    for (const part of [this.#toGuest, this.#toHost, this.#admission]) part.close();
    await Promise.all(ending);
    for (const path of this.#inner.keys()) await rm(path, { force: true });
  }

  #takeClient(client: Socket): void {
    if (!this.#hold(client)) return;
    const late = this.#clock.after(CONNECT_MS_MAX, () => client.destroy());
    client.once('close', late);
    readLine(client, LINE_BYTES_MAX, (line) => {
      late();
      if (line === null) this.#refuse(client);
      else this.#admit(client, () => this.#askGuest(client, line));
    });
  }

  #askGuest(client: Socket, line: Buffer): void {
    const guest = this.#dial(this.innerPath, client);
    if (guest === undefined) return;
    // In one write: Firecracker does not accept a line in parts.
    guest.write(line);
    // A client that hangs up is not noticed, since its socket is not read yet.
    const late = this.#clock.after(ANSWER_MS_MAX, () => guest.destroy());
    readLine(guest, LINE_BYTES_MAX, (answer) => {
      late();
      if (answer === null) {
        this.#refuse(client, guest);
        return;
      }
      client.write(answer);
      this.#join(client, guest);
    });
  }

  #takeGuest(guest: Socket, hostPath: string): void {
    if (!this.#hold(guest)) return;
    this.#admit(guest, () => {
      const host = this.#dial(hostPath, guest);
      const refuse = (): void => this.#refuse(guest);
      host?.once('close', refuse);
      host?.once('connect', () => {
        host.off('close', refuse);
        this.#join(host, guest);
      });
    });
  }

  #admit(socket: Socket, admit: () => void): void {
    this.#admission.add(admit);
    socket.once('close', () => this.#admission.forget(admit));
  }

  #join(host: Socket, guest: Socket): void {
    this.#opened += 1;
    this.#open += 1;
    let left = 2;
    for (const socket of [host, guest]) {
      socket.once('close', () => {
        left -= 1;
        if (left === 0) this.#open -= 1;
      });
    }
    this.#toGuest.join(host, guest);
    this.#toHost.join(guest, host);
  }

  /** Opens a connection that ends with `other`. @returns undefined if `other` has ended or there are too many */
  #dial(path: string, other: Socket): Socket | undefined {
    if (other.destroyed) return undefined;
    const socket = connect({ path, allowHalfOpen: true });
    if (!this.#hold(socket)) {
      other.destroy();
      return undefined;
    }
    couple(socket, other);
    couple(other, socket);
    return socket;
  }

  #refuse(...sockets: Socket[]): void {
    this.#refused += 1;
    for (const socket of sockets) socket.destroy();
  }

  #hold(socket: Socket): boolean {
    socket.on('error', (error) => ignore(error, 'a connection of a channel broke'));
    if (this.#sockets.size >= 2 * CONNECTIONS_MAX) {
      this.#refuse(socket);
      return false;
    }
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    return true;
  }
}

/** If one breaks, the other ends after its pending data. A regular end is passed on by the flows. */
function couple(one: Socket, other: Socket): void {
  one.once('error', () => other.destroySoon());
  one.once('close', () => {
    if (!one.readableEnded) other.destroySoon();
  });
}

async function listen(path: string, take: (socket: Socket) => void): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, take);
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, resolve);
    });
  } catch (cause) {
    throw new VmmError('vmm_start_failed', `could not listen at ${path}`, { cause });
  }
  return server;
}

/** Closes the server, which removes its socket file. */
async function end(server: Server | undefined): Promise<void> {
  if (server === undefined) return;
  await new Promise<void>((resolve) => server.close(() => resolve()));
}

function checkLimits(limits: ChannelLimits): void {
  for (const name of ['guestToHostBytes', 'hostToGuestBytes', 'connections'] as const) {
    const limit = limits[name];
    const cause = limit === undefined ? undefined : bucketLimitProblem(limit);
    if (cause === undefined) continue;
    throw new VmmError('vm_spec_invalid', `the VM's channelLimits can't be used`, {
      cause: `${name}: ${cause}`,
    });
  }
}
