/** Connections of the host into a guest, by its card (io). The packet filter knows them by their mark. */
import { Socket, type SocketConstructorOpts } from 'node:net';
import type { Clock } from '../../base/clock.ts';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { SyscallError } from '../../sys/libc.ts';
import { markedTcpSocket } from '../../sys/marked-socket.ts';
import { NetError } from '../errors.ts';
import { HOST_MARK } from '../nftables/sandbox-chains.ts';

const LIMITS = {
  /** Of one sandbox at one time. */
  connectionsMax: 128,
  connectMs: 10_000,
} as const;

export class GuestConnections {
  readonly #address: string;
  readonly #clock: Clock;
  readonly #open = new Set<Socket>();
  #isClosed = false;

  /** @param address of the guest, dotted */
  constructor(address: string, clock: Clock) {
    this.#address = address;
    this.#clock = clock;
  }

  /**
   * Half-closes go through both ways; nothing is read before the caller reads.
   * @throws NetError `guest_unreachable`, `guest_connections`, `closed`
   */
  async connect(port: number, signal?: AbortSignal): Promise<Socket> {
    signal?.throwIfAborted();
    if (this.#isClosed) throw new NetError('closed', 'the sandbox has lost its network card');
    if (this.#open.size >= LIMITS.connectionsMax) {
      const message = `${this.#open.size} connections to the sandbox's card are open`;
      throw new NetError('guest_connections', message, { remedy: 'close some of them first' });
    }
    const socket = this.#make(port);
    this.#open.add(socket);
    socket.on('error', (error) => ignore(error, 'the close that follows tells'));
    socket.once('close', () => this.#open.delete(socket));
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const give = (why: unknown): void => reject(this.#failure(port, why));
    const cancelTimer = this.#clock.after(LIMITS.connectMs, () => give('it does not answer'));
    const abort = (): void => reject(signal?.reason);
    signal?.addEventListener('abort', abort);
    socket.once('connect', resolve);
    socket.once('error', give);
    socket.once('close', () => give('it was closed'));
    try {
      socket.connect({ host: this.#address, port, noDelay: true });
      await promise;
      return socket;
    } catch (error) {
      socket.destroy();
      throw error;
    } finally {
      cancelTimer();
      signal?.removeEventListener('abort', abort);
      socket.off('error', give);
    }
  }

  /** Ends all of them. Idempotent. */
  close(): void {
    this.#isClosed = true;
    for (const socket of this.#open) socket.resetAndDestroy();
  }

  #make(port: number): Socket {
    try {
      const fd = markedTcpSocket(HOST_MARK);
      // Otherwise it is read from before it is connected.
      const options = { fd, allowHalfOpen: true, pauseOnCreate: true };
      return new Socket(options satisfies SocketConstructorOpts & { pauseOnCreate: boolean });
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      throw this.#failure(port, error);
    }
  }

  #failure(port: number, why: unknown): NetError {
    const attempt = `connect to port ${port} of the sandbox's card`;
    const message = typeof why === 'string' ? `${attempt}: ${why}` : attempt;
    const remedy =
      errorCode(why) === 'ECONNREFUSED'
        ? 'let the program in it listen on 0.0.0.0: its loopback is not reached by the card'
        : 'see whether the program in it listens, or use the channel';
    return new NetError('guest_unreachable', message, {
      remedy,
      ...(typeof why === 'string' ? {} : { cause: why }),
    });
  }
}
