/** Raw HTTP for tests of proxies: a server and a client that send given bytes. */
import { connect, createServer, type Server, type Socket } from 'node:net';

export interface RawServer extends AsyncDisposable {
  readonly port: number;
  /** The bytes of each connection so far, in latin1. */
  readonly received: string[];
  readonly sockets: readonly Socket[];
}

/**
 * Answers each connection when its request's head is complete.
 * @param answer bytes to send, or a function that handles the connection
 */
export async function startRawServer(
  answer: string | ((socket: Socket, head: string) => void),
  options: { readonly host?: string } = {},
): Promise<RawServer> {
  const received: string[] = [];
  const sockets: Socket[] = [];
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    const index = sockets.push(socket) - 1;
    let isAnswered = false;
    received[index] = '';
    socket.on('error', () => undefined);
    socket.on('data', (bytes) => {
      received[index] += bytes.toString('latin1');
      if (isAnswered || !received[index]?.includes('\r\n\r\n')) return;
      isAnswered = true;
      if (typeof answer === 'function') answer(socket, received[index] ?? '');
      else socket.end(answer, 'latin1');
    });
  });
  await new Promise<void>((resolve) => server.listen(0, options.host ?? '127.0.0.1', resolve));
  return {
    port: portOf(server),
    received,
    sockets,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

function portOf(server: Server): number {
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the server has no port');
  return address.port;
}

export interface RawClient extends Disposable {
  readonly socket: Socket;
  /** All bytes so far, in latin1. */
  text(): string;
  /**
   * Waits until the received text contains `wanted`, and returns all of it; also returns at the end of the connection.
   */
  until(wanted: string): Promise<string>;
  /** Waits for the end of the connection, and returns all. */
  ended(): Promise<string>;
}

export async function rawClient(url: string, bytes = ''): Promise<RawClient> {
  const { hostname, port } = new URL(url);
  const socket = connect({ host: hostname, port: Number(port), allowHalfOpen: true });
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  });
  let text = '';
  let isOver = false;
  const waiting = new Set<() => void>();
  const wake = (): void => {
    for (const one of waiting) one();
  };
  socket.on('data', (more) => {
    text += more.toString('latin1');
    wake();
  });
  const over = (): void => {
    isOver = true;
    wake();
  };
  socket.on('error', over);
  socket.once('end', over);
  socket.once('close', over);
  const when = (isThere: () => boolean): Promise<string> =>
    new Promise((resolve) => {
      const look = (): void => {
        if (!isThere() && !isOver) return;
        waiting.delete(look);
        resolve(text);
      };
      waiting.add(look);
      look();
    });
  if (bytes !== '') socket.write(bytes, 'latin1');
  return {
    socket,
    text: () => text,
    until: (wanted) => when(() => text.includes(wanted)),
    ended: () => when(() => false),
    [Symbol.dispose]: () => socket.destroy(),
  };
}
