/** Settings of the host's own clients, through the gateway: proxies, scopes, credentials, invalid settings. */
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import type { Log } from '../../src/base/log.ts';
import { ECOSYSTEMS, NO_PACKAGES } from '../../src/base/request/package-policy.ts';
import { PackageError } from '../../src/egress/packages/errors.ts';
import type { IndexSet, PackagesOptions } from '../../src/egress/packages/gateway.ts';
import { type ForwardProxy, startForwardProxy } from '../support/forward-proxy.ts';
import { certificate } from '../support/gateway-world.ts';
import { type TestIndex, wheelOf } from '../support/package-index.ts';
import { type Answer, fetchPackage, openPackageWorld, type PackageWorld } from '../support/package-world.ts';

const ALL = { ...NO_PACKAGES, ecosystems: ECOSYSTEMS };
const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of open.splice(0).toReversed()) await one[Symbol.asyncDispose]();
});

async function world(
  indexes: (index: TestIndex) => IndexSet,
  more: Partial<PackagesOptions> = {},
): Promise<PackageWorld> {
  const made = await openPackageWorld(indexes, more);
  open.push(made);
  return made;
}

/** Lines of the log, as JSON. */
function logOf(lines: string[]): Log {
  const write = (message: string, fields?: object): void => void lines.push(JSON.stringify({ message, ...fields }));
  return { debug: write, info: write, warn: write, error: write };
}

const portOf = (origin: string): number => Number(new URL(origin).port);

describe('npm scopes', () => {
  const dist = { tarball: 'x.tgz', shasum: '0'.repeat(40) };
  const packument = JSON.stringify({ versions: { '1.0.0': { dist } } });

  it('a scope with its own registry is fetched there, with its token; others at the default', async () => {
    const { index, attach } = await world(({ origin }) => ({
      npm: { baseUrl: `${origin}/main/`, authorization: 'Bearer main-t0ken' },
      npmScopes: {
        '@corp': { baseUrl: `${origin}/corp/`, authorization: 'Bearer corp-t0ken' },
        '@bad': new PackageError('index_invalid', 'the registry of this scope is invalid'),
      },
    }));
    const socket = await attach(ALL);
    for (const target of ['/corp/@corp%2fa', '/main/@other%2fa', '/main/corp']) {
      index.answer(target, (_request, response) => void response.end(packument));
    }
    const answers: Answer[] = [];
    for (const name of ['@corp%2fa', '@other%2fa', 'corp']) {
      answers.push(await fetchPackage(socket, `/npm/${name}`));
    }
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200]);
    expect(index.seen.map(({ target, headers }) => [target, headers.authorization])).toEqual([
      ['/corp/@corp%2fa', 'Bearer corp-t0ken'],
      ['/main/@other%2fa', 'Bearer main-t0ken'],
      ['/main/corp', 'Bearer main-t0ken'],
    ]);
    const texts = answers.map(({ headers, body }) => JSON.stringify(headers) + body.toString());
    expect(texts.join()).not.toMatch(new RegExp(`t0ken|${portOf(index.origin)}|/main/`));
    const bad = await fetchPackage(socket, '/npm/@bad%2fa');
    expect([bad.status, bad.phrase]).toEqual([
      403,
      "This host's index can't be used: the registry of this scope is invalid. Correct it there.",
    ]);
  });
});

describe('an invalid setting', () => {
  it('disables only its own kind, with the reason; a corrected one counts', async () => {
    let isCorrected = false;
    const { index, attach, fetches } = await world(({ index: own, origin }) => ({
      npm: isCorrected
        ? { baseUrl: `${origin}/npm/` }
        : new PackageError('index_invalid', "the registry of the host's npm is not an URL"),
      pip: own,
    }));
    index.add(wheelOf('demo', '1.0', 'hello'));
    index.answer('/npm/a', (_request, response) => void response.end('{"versions":{}}'));
    const socket = await attach(ALL);
    expect((await fetchPackage(socket, '/pypi/simple/demo/')).status).toBe(200);
    const refused = await fetchPackage(socket, '/npm/a');
    expect([refused.status, JSON.parse(refused.body.toString())]).toEqual([
      403,
      {
        code: 'no_index',
        error: "This host's index can't be used: the registry of the host's npm is not an URL. Correct it there.",
      },
    ]);
    expect(fetches.at(-1)).toMatchObject({ ecosystem: 'npm', outcome: 'no_index' });
    isCorrected = true;
    expect((await fetchPackage(socket, '/npm/a')).status).toBe(200);
  });
});

describe('proxies of the host', () => {
  async function behindProxy(
    more: Partial<PackagesOptions> = {},
  ): Promise<{ world: PackageWorld; proxy: ForwardProxy; secure: string }> {
    const identity = certificate('index.test');
    const secure = createHttpsServer(identity, (request, response) => {
      const target = `http://127.0.0.1:${portOf(made.index.origin)}${request.url}`;
      made.index.seen.push({ method: 'TLS', target: request.url ?? '', headers: request.headers });
      void fetch(target).then(async (answer) => {
        response.writeHead(answer.status, { 'content-type': answer.headers.get('content-type') ?? '' });
        response.end(Buffer.from(await answer.arrayBuffer()));
      });
    });
    await new Promise<void>((resolve) => {
      secure.listen(0, '127.0.0.1', resolve);
    });
    open.push({
      [Symbol.asyncDispose]: () =>
        new Promise<void>((resolve) => {
          secure.closeAllConnections();
          secure.close(() => resolve());
        }),
    });
    let proxy: ForwardProxy | undefined;
    const made: PackageWorld = await world(() => {
      const proxies = { http: proxy?.url, https: proxy?.url, except: '' };
      const authorization = 'Basic aW5kZXgtczNjcmV0';
      return {
        pip: { baseUrl: 'http://index.test/simple/', proxies, authorization },
        npm: { baseUrl: 'https://index.test/npm/', proxies, authorization, ca: identity.cert },
      };
    }, more);
    const tunnels = (secure.address() as AddressInfo).port;
    proxy = await startForwardProxy({ http: portOf(made.index.origin), tunnels });
    open.push(proxy);
    return { world: made, proxy, secure: identity.cert };
  }

  it('an index by HTTP: its name is sent to the proxy, unresolved; the guest sees neither password', async () => {
    const lines: string[] = [];
    const { world: made, proxy } = await behindProxy({ log: logOf(lines) });
    const wheel = wheelOf('demo', '1.0', 'hello');
    made.index.add(wheel);
    const socket = await made.attach(ALL);
    const page = await fetchPackage(socket, '/pypi/simple/demo/');
    const file = await fetchPackage(socket, `/pypi/files/${wheel.sha256}/${wheel.filename}`);
    const missing = await fetchPackage(socket, '/pypi/simple/none/');
    expect([page.status, file.status, missing.status]).toEqual([200, 200, 404]);
    expect(file.body.equals(wheel.bytes)).toBe(true);
    expect(proxy.seen.map(({ target }) => target)).toEqual([
      'http://index.test/simple/demo/',
      `http://index.test/files/${wheel.filename}`,
      'http://index.test/simple/none/',
    ]);
    for (const { headers } of proxy.seen) {
      expect(headers['proxy-authorization']).toBe(proxy.authorization);
    }
    const guest = [page, file, missing].map(({ headers, body, phrase }) =>
      JSON.stringify([headers, phrase, body.toString('latin1')]),
    );
    const told = [...guest, ...lines, JSON.stringify(made.fetches)].join('\n');
    expect(told).not.toMatch(/s3cret|aW5kZXgtczNjcmV0|cHJveHktczNjcmV0|index\.test/);
  });

  it('an index by HTTPS: a tunnel to its name; the proxy sees no field of the request', async () => {
    const { world: made, proxy } = await behindProxy();
    made.index.answer('/npm/a', (_request, response) => void response.end('{"versions":{}}'));
    const socket = await made.attach(ALL);
    expect((await fetchPackage(socket, '/npm/a')).status).toBe(200);
    expect(proxy.seen).toMatchObject([{ method: 'CONNECT', target: 'index.test:443' }]);
    expect(proxy.seen[0]?.headers).not.toHaveProperty('authorization');
    const [inside] = made.index.seen.filter(({ method }) => method === 'TLS');
    expect(inside?.headers).toMatchObject({ authorization: 'Basic aW5kZXgtczNjcmV0' });
    expect(inside?.headers).not.toHaveProperty('proxy-authorization');
  });

  it('a failing proxy: the guest learns that the index failed, the log does not have the password', async () => {
    const lines: string[] = [];
    const { world: made, proxy } = await behindProxy({ log: logOf(lines) });
    await proxy[Symbol.asyncDispose]();
    const socket = await made.attach(ALL);
    const answers = [await fetchPackage(socket, '/npm/a'), await fetchPackage(socket, '/pypi/simple/a/')];
    expect(answers.map(({ status }) => status)).toEqual([502, 502]);
    expect(lines).toHaveLength(2);
    const told = [...lines, ...answers.map(({ body }) => body.toString())].join('\n');
    expect(told).not.toMatch(/s3cret|cHJveHktczNjcmV0/);
  });

  it.each([
    ['answers no tunnel', ''],
    ['opens tunnels without an end', 'HTTP/1.1 200 OK\r\n\r\n'],
  ])('a proxy that %s: each request ends in time, and so does its connection', async (_what, answer) => {
    const connections = new Set<Socket>();
    const silent = createServer((socket) => {
      connections.add(socket);
      socket.once('data', () => socket.write(answer));
      socket.resume();
      socket.on('error', () => undefined);
      socket.on('close', () => connections.delete(socket));
    });
    await new Promise<void>((resolve) => {
      silent.listen(0, '127.0.0.1', resolve);
    });
    const { port } = silent.address() as AddressInfo;
    const proxies = { https: `http://127.0.0.1:${port}/`, except: '' };
    const { attach } = await world(() => ({ npm: { baseUrl: 'https://index.test/npm/', proxies } }), {
      upstreamLimits: { silenceTimeoutMs: 200 },
    });
    open.push({ [Symbol.asyncDispose]: async () => void silent.close() });
    const socket = await attach(ALL);
    for (const name of ['a', 'a', 'b']) {
      expect((await fetchPackage(socket, `/npm/${name}`)).status).toBe(504);
    }
    await expect.poll(() => connections.size, { timeout: 5_000 }).toBe(0);
  });

  it('a link to another server: the proxy gets the checked address, and nothing for private ones', async () => {
    const asked: string[] = [];
    const { world: made, proxy } = await behindProxy({
      isPublic: (address) => address === '198.51.100.7',
      async resolve(name) {
        asked.push(name);
        if (name === 'unknown.test') throw new Error('ENOTFOUND');
        return [{ address: name === 'public.test' ? '198.51.100.7' : '10.0.0.7', family: 4 }];
      },
    });
    const socket = await made.attach(ALL);
    const statuses: Record<string, number> = {};
    for (const [name, link] of [
      ['public', 'https://public.test/f.whl'],
      ['inside', 'https://inside.test/f.whl'],
      ['unknown', 'https://unknown.test/f.whl'],
      ['literal', 'https://10.0.0.8/f.whl'],
      ['plain', 'http://public.test/f.whl'],
    ] as const) {
      const wheel = wheelOf(name, '1.0', name);
      made.index.add(wheel, (entry) => {
        entry['url'] = link;
      });
      const path = `/pypi/files/${wheel.sha256}/${wheel.filename}`;
      statuses[name] = (await fetchPackage(socket, path)).status;
    }
    const tunnels = proxy.seen.filter(({ method }) => method === 'CONNECT');
    expect(tunnels.map(({ target }) => target)).toEqual(['198.51.100.7:443']);
    // The certificate there is for another name: the connection is checked, whatever the proxy does.
    expect(statuses).toEqual({ public: 502, inside: 403, unknown: 403, literal: 403, plain: 403 });
    expect(asked).toEqual(['public.test', 'inside.test', 'unknown.test']);
  });
});
