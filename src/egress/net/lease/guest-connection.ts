/**
 * Connections from the host to a guest through its network card (io). The packet filter recognizes them by their mark.
 */
import { Socket, type SocketConstructorOpts } from 'node:net';
import type { Clock } from '../../../base/clock.ts';
import { errorCode } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import { SyscallError } from '../../../sys/libc.ts';
import { markedTcpSocket } from '../../../sys/marked-socket.ts';
import { NetError } from '../errors.ts';
import { HOST_MARK } from '../nftables/sandbox-chains.ts';

const LIMITS = { connectionsMax: 128, connectMs: 10_000 } as const;

export class GuestConnections {
  readonly #address: string;
  readonly #clock: Clock;
  readonly #open = new Set<Socket>();
  #isClosed = false;

  constructor(address: string, clock: Clock) {
    this.#address = address;
    this.#clock = clock;
  }

  /**
   * Passes half-closes both ways, and reads nothing before the caller does.
   * @throws NetError `guest_unreachable`, `guest_connections`, `closed`
   */
  async connect(port: number, signal?: AbortSignal): Promise<Socket> {
    signal?.throwIfAborted();
    if (this.#isClosed) throw new NetError('closed', 'connect to a guest: its sandbox has no network card any more');
    if (this.#open.size >= LIMITS.connectionsMax) {
      const message = `connect to a guest: ${this.#open.size} connections to it are open already`;
      throw new NetError('guest_connections', message, { remedy: 'Close some of them first.' });
    }
    const socket = this.#make(port);
    this.#open.add(socket);
    socket.on('error', (error) => ignore(error, 'a close follows, which is handled'));
    socket.once('close', () => this.#open.delete(socket));
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const fail = (why: unknown): void => reject(this.#failure(port, why));
    const cancelTimer = this.#clock.after(LIMITS.connectMs, () => fail('no answer in time'));
    const abort = (): void => reject(signal?.reason);
    signal?.addEventListener('abort', abort);
    socket.once('connect', resolve);
    socket.once('error', fail);
    socket.once('close', () => fail('closed'));
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
      socket.off('error', fail);
    }
  }

  /** Resets all connections. Idempotent. */
  close(): void {
    this.#isClosed = true;
    for (const socket of this.#open) socket.resetAndDestroy();
  }

  #make(port: number): Socket {
    try {
      const fd = markedTcpSocket(HOST_MARK);
      // Without `pauseOnCreate`, Node would read before the connect.
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
        ? 'Let the program in the guest listen on 0.0.0.0: the card does not reach its loopback.'
        : 'Check that a program in the guest listens on the port, or use the channel.';
    return new NetError('guest_unreachable', message, { remedy, ...(typeof why === 'string' ? {} : { cause: why }) });
  }
}
