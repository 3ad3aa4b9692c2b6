/** The host's end of a channel, for tests: dial the guest, listen for it. */
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';

/** @returns the stream after `OK <n>\n`, or null if the guest refused the port */
export async function dialGuest(channelPath: string, port: number): Promise<Socket | null> {
  const socket = connect({ path: channelPath, allowHalfOpen: true });
  socket.on('error', () => socket.destroy());
  await once(socket, 'connect');
  socket.write(`CONNECT ${port}\n`);
  let head = '';
  while (!head.endsWith('\n')) {
    const byte = socket.read(1) as Buffer | null;
    if (byte !== null) head += byte.toString('latin1');
    else if (socket.readableEnded || socket.destroyed) return null;
    else await Promise.race([once(socket, 'readable'), once(socket, 'end'), once(socket, 'close')]);
  }
  if (!/^OK \d+\n$/.test(head)) throw new Error(`the channel answered ${JSON.stringify(head)}`);
  return socket;
}

/** All bytes up to the peer's end of file. */
export async function readAll(socket: Socket): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const bytes of socket) parts.push(bytes as Buffer);
  return Buffer.concat(parts);
}

/** Reads exactly `count` bytes; needs no half-closed connections, which not every VMM's channel has. */
export async function readBytes(socket: Socket, count: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  let got = 0;
  for await (const bytes of socket.iterator({ destroyOnReturn: false })) {
    parts.push(bytes as Buffer);
    got += (bytes as Buffer).length;
    if (got >= count) break;
  }
  return Buffer.concat(parts);
}

export interface GuestPort {
  accept(): Promise<Socket>;
  close(): Promise<void>;
}

/** Listens at `<channelPath>_<port>`. */
export async function listenForGuestPort(channelPath: string, port: number): Promise<GuestPort> {
  const waiting: Socket[] = [];
  const wanted: ((socket: Socket) => void)[] = [];
  const all = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => socket.destroy());
    all.add(socket);
    const take = wanted.shift();
    if (take === undefined) waiting.push(socket);
    else take(socket);
  });
  server.listen(`${channelPath}_${port}`);
  await once(server, 'listening');
  return {
    accept() {
      const socket = waiting.shift();
      if (socket !== undefined) return Promise.resolve(socket);
      return new Promise((resolve) => wanted.push(resolve));
    },
    async close() {
      for (const socket of all) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
