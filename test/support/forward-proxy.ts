/**
 * An HTTP proxy for tests, on a free port of loopback. It sends every request to the same server, whatever its host.
 */
import { createServer, request as httpRequest, type IncomingMessage } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import type { Duplex } from 'node:stream';

export interface ForwardProxy extends AsyncDisposable {
  /** With a user and a password. */
  readonly url: string;
  readonly authorization: string;
  readonly seen: { readonly method: string; readonly target: string; readonly headers: IncomingMessage['headers'] }[];
}

/** @param to ports on loopback, for requests and for tunnels */
export async function startForwardProxy(to: {
  readonly http: number;
  readonly tunnels: number;
}): Promise<ForwardProxy> {
  const seen: ForwardProxy['seen'] = [];
  const note = ({ method = '', url: target = '', headers }: IncomingMessage): void =>
    void seen.push({ method, target, headers });
  const server = createServer((request, response) => {
    note(request);
    const { headers, url = '' } = request;
    const { pathname } = new URL(url);
    const out = httpRequest({ port: to.http, path: pathname, headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 500, answer.headers);
      answer.pipe(response);
    });
    out.on('error', () => response.destroy());
    out.end();
  });
  const tunnels = new Set<Duplex>();
  server.on('connect', (request, client) => {
    note(request);
    tunnels.add(client);
    const target = connect(to.tunnels, '127.0.0.1', () => {
      client.write('HTTP/1.1 200 OK\r\n\r\n');
      client.pipe(target).pipe(client);
    });
    for (const [one, other] of [
      [client, target],
      [target, client],
    ] as const) {
      one.on('error', () => other.destroy());
      one.on('close', () => other.destroy());
    }
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  return {
    url: `http://me:proxy-s3cret@127.0.0.1:${(server.address() as AddressInfo).port}/`,
    authorization: `Basic ${Buffer.from('me:proxy-s3cret').toString('base64')}`,
    seen,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      for (const tunnel of tunnels) tunnel.destroy();
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
      });
    },
  };
}
