/** A server that accepts its first connection and then says nothing: TLS never begins on it. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';

export interface HeldConnection extends AsyncDisposable {
  readonly port: number;
  /** Resolves when the first bytes of the connection have arrived. */
  readonly begun: Promise<void>;
  /** Resolves when the client has closed the connection. */
  readonly ended: Promise<void>;
}

/** @param behind port that later connections lead to; without it they are closed */
export async function holdConnection(behind?: number): Promise<HeldConnection> {
  const begun = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<void>();
  let isFirst = true;
  const server = createServer((near) => {
    near.on('error', () => near.destroy());
    if (isFirst) {
      isFirst = false;
      near.once('data', () => begun.resolve());
      near.once('close', () => ended.resolve());
    } else if (behind === undefined) near.destroy();
    else {
      const far = connect(behind, '127.0.0.1');
      far.on('error', () => near.destroy());
      near.pipe(far).pipe(near);
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    begun: begun.promise,
    ended: ended.promise,
    async [Symbol.asyncDispose]() {
      server.close();
      await once(server, 'close');
    },
  };
}
