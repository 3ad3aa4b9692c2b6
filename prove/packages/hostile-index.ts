/** An index that does what no index should, and an internal service that no sandbox may reach. Both on loopback. */
import { createHash } from 'node:crypto';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { gzipSync } from 'node:zlib';
import { MIB } from '../../src/base/units.ts';

export const PASSWORD = 'Basic cHJvb2Y6cGFzc3dvcmQ=';
/** Token for the registry of one npm scope. */
export const SCOPE_TOKEN = 'Bearer proof-scope-token';
/** Login for the host's proxy. */
export const PROXY_LOGIN = 'proof:proxy-password';
export const SECRET = 'secret-of-an-internal-service';
const JSON_TYPE = 'application/vnd.pypi.simple.v1+json';

export const GOOD = Buffer.alloc(100_000, 'good');
/** Digest of a project's file. Each has its own: a file that is in the cache needs no index. */
export function digestOf(name: string): string {
  const content = name === 'good' ? GOOD : name;
  return createHash('sha256').update(content).digest('hex');
}

const BOMB = gzipSync(Buffer.alloc(200 * MIB));

/** Links of pages, by project name. */
export type Links = Readonly<Record<string, string>>;

export interface HostileIndex extends AsyncDisposable {
  readonly origin: string;
  /** Request lines and fields of everything that arrived. */
  readonly seen: string[];
  /** Requests that reached the internal service. */
  readonly reached: string[];
  readonly service: string;
  /** As a proxy of the host: targets of the requested tunnels. None is opened. */
  readonly tunnels: string[];
}

/** @param links built from the origin of the internal service */
export async function startHostileIndex(links: (service: string) => Links): Promise<HostileIndex> {
  const seen: string[] = [];
  const reached: string[] = [];
  const tunnels: string[] = [];
  const inside = createServer((request, response) => {
    reached.push(`${request.method} ${request.url}`);
    response.end(SECRET);
  });
  const service = await listen(inside);
  const byName = links(service);
  const index = createServer(({ method, url = '', rawHeaders }, response) => {
    seen.push(`${method} ${url} ${rawHeaders.join(' ')}`);
    // A proxy gets the whole URL.
    answer(url.replace(/^http:\/\/[^/]*/, ''), response, byName, service);
  });
  index.on('connect', ({ url = '' }, socket) => {
    tunnels.push(url);
    socket.destroy();
  });
  const origin = await listen(index);
  return {
    origin,
    seen,
    reached,
    service,
    tunnels,
    async [Symbol.asyncDispose]() {
      await Promise.all([index, inside].map(close));
    },
  };
}

function answer(url: string, response: ServerResponse, links: Links, service: string): void {
  const name = /^\/simple\/([a-z0-9-]+)\/$/.exec(url)?.[1];
  if (name !== undefined) {
    page(name, response, links[name]);
    return;
  }
  const file = url.replace(/^\/files\//, '');
  switch (file) {
    case 'good':
      response.end(GOOD);
      return;
    case 'wrong':
      response.end(Buffer.alloc(GOOD.length, 'evil'));
      return;
    case 'short':
      response.writeHead(200, { 'content-length': GOOD.length });
      response.write(GOOD.subarray(0, 1000), () => response.destroy());
      return;
    case 'endless': {
      const more = (): void => {
        while (!response.destroyed && response.write(GOOD));
        if (!response.destroyed) response.once('drain', more);
      };
      more();
      return;
    }
    case 'silent':
      return;
    case 'redirect':
      response.writeHead(302, { location: `${service}/redirected` });
      response.end();
      return;
    case 'circle':
      response.writeHead(302, { location: '/files/circle' });
      response.end();
      return;
    default:
      response.writeHead(404);
      response.end();
  }
}

function page(name: string, response: ServerResponse, link: string | undefined): void {
  response.setHeader('content-type', JSON_TYPE);
  if (name === 'huge') {
    response.end(Buffer.alloc(40 * MIB, ' '));
    return;
  }
  if (name === 'bomb') {
    response.setHeader('content-encoding', 'gzip');
    response.end(BOMB);
    return;
  }
  if (link === undefined) {
    response.statusCode = 404;
    response.end();
    return;
  }
  const filename = `${name.replaceAll('-', '_')}-1.0-py3-none-any.whl`;
  response.end(JSON.stringify({ files: [{ filename, url: link, hashes: { sha256: digestOf(name) } }] }));
}

function listen(server: Server): Promise<string> {
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => {
      resolve(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    });
  });
}

function close(server: Server): Promise<void> {
  server.closeAllConnections();
  return new Promise((resolve) => {
    server.close(() => resolve());
  });
}
