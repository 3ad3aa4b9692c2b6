/** Requests by method and path through the gateway, with real clients and servers, on loopback. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls, createSecureContext } from 'node:tls';
import { gzipSync } from 'node:zlib';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { DestinationBudgets } from '../../src/egress/net/policy/destination-budgets.ts';
import { parsePolicy } from '../../src/egress/net/policy/egress-rules.ts';
import { namePolicy } from '../../src/egress/net/policy/name-policy.ts';
import { CertificateAuthority } from '../../src/egress/net/secret/authority.ts';
import type { EgressSecrets } from '../../src/egress/net/secret/secret.ts';
import { ADDRESS, cleanUp, errorOf, httpWorld, sClient, tlsWorld, undo, world } from '../support/gateway-servers.ts';
import { certificate, command, HOST, listen, talk } from '../support/gateway-world.ts';

// Public, as the real policy requires: `ADDRESS` is for documentation.
const PUBLIC = '93.184.216.34';
const policyOf = (...allow: string[]) => namePolicy(parsePolicy({ mode: 'allowlist', allow }));

afterEach(cleanUp);

describe('Gateway: rules by path, plain HTTP', () => {
  const request = (line: string, host = 'a.example', more = '') => `${line} HTTP/1.1\r\nHost: ${host}\r\n${more}\r\n`;
  const last = 'Connection: close\r\n';

  async function judged(...allow: string[]) {
    const { made, seen } = await httpWorld();
    made.policy = policyOf(...allow);
    made.pins.pin('a.example', [PUBLIC], 60);
    made.pins.pin('b.example', [PUBLIC], 60);
    made.destination = { address: PUBLIC, port: 80 };
    made.internet.set(`${PUBLIC}:80`, made.internet.get(`${ADDRESS}:80`) ?? 0);
    return { made, seen };
  }

  it('each request of a connection is judged alone, and a refused one is answered', async () => {
    const { made, seen } = await judged('GET,POST http://a.example/v1/');
    const pieces = [
      request('GET /v1/a', 'a.example'),
      request('POST /v1/b', 'a.example', 'Transfer-Encoding: chunked\r\n'),
      '3\r\nabc\r\n0\r\n\r\n',
      request('GET /admin', 'a.example'),
      request('GET /v1/c', 'a.example', last),
    ];
    const reply = await talk(made.port, pieces);
    expect(seen).toEqual(['GET a.example /v1/a 0', 'POST a.example /v1/b 3']);
    expect(reply.toString()).toContain('403 Forbidden');
    expect(errorOf(reply)).toBe('path_refused');
    expect(made.reasons()).toEqual(['allowed', 'allowed', 'path_refused']);
    expect(made.gateway.stats().ended.get('path_refused')).toBe(1);
  });
  it('a trailer field that would change the request is refused, and never reaches the server', async () => {
    for (const trailer of ['X-HTTP-Method-Override: DELETE', 'x_copy_from: /admin']) {
      const { made, seen } = await judged('GET,POST http://a.example/v1/');
      const pieces = [
        request('GET /v1/a'),
        request('POST /v1/b', 'a.example', 'Transfer-Encoding: chunked\r\n'),
        `3\r\nabc\r\n0\r\n${trailer}\r\n\r\n`,
      ];
      expect(errorOf(await talk(made.port, pieces))).toBe('http_chunk');
      expect(seen).toEqual(['GET a.example /v1/a 0']);
      // All at once, while the server is still being called.
      expect(errorOf(await talk(made.port, [pieces.slice(1).join('')]))).toBe('http_chunk');
    }
  });
  it('a request that arrives byte by byte is judged the same', async () => {
    const { made, seen } = await judged('GET http://a.example/v1/');
    const bytes = [...request('GET /v1/../x', 'a.example', last)];
    expect(errorOf(await talk(made.port, bytes))).toBe('path_ambiguous');
    expect(seen).toEqual([]);
  });
  it('another name of the same address on one connection has its own rules', async () => {
    const { made, seen } = await judged('GET http://a.example/v1/', 'b.example');
    const pieces = [
      request('DELETE /x', 'b.example'),
      request('GET /v1/a', 'a.example'),
      request('DELETE /v1/a', 'a.example', last),
    ];
    expect(errorOf(await talk(made.port, pieces))).toBe('method_refused');
    expect(seen).toEqual(['DELETE b.example /x 0', 'GET a.example /v1/a 0']);
  });
  it.each([
    ['a tab in the request line', 'GET\t/v1/x HTTP/1.1\r\nHost: a.example\r\n\r\n'],
    ['two spaces', 'GET  /v1/x HTTP/1.1\r\nHost: a.example\r\n\r\n'],
    ['a tab behind the path', 'GET /v1/x\t/admin HTTP/1.1\r\nHost: a.example\r\n\r\n'],
    ['no version', 'GET /v1/x\r\n\r\n'],
    ['a trailing dot in Host', request('GET /admin', 'a.example.', last)],
    ['two lengths', request('GET /v1/a', 'a.example', 'Content-Length: 0\r\nTransfer-Encoding: chunked\r\n')],
    ['absolute-form of another path', request('GET http://a.example/admin', 'a.example', last)],
    ['Expect: 100-continue', request('PUT /admin', 'a.example', `Expect: 100-continue\r\nContent-Length: 3\r\n`)],
    ['an upgrade', request('GET /v1/x', 'a.example', 'Connection: Upgrade\r\nUpgrade: websocket\r\n')],
    ['another port in Host', request('GET /v1/x', 'a.example:8080', last)],
  ])('nothing reaches the server: %s', async (_what, text) => {
    const { made, seen } = await judged('GET http://a.example/v1/');
    const reply = await talk(made.port, [text], true);
    expect(reply.toString()).toMatch(/^HTTP\/1\.1 40[03] /);
    expect(seen).toEqual([]);
    expect(made.reasons()).not.toContain('allowed');
  });
  it('controls: Host in capitals and with a port, absolute form, an encoded space pass', async () => {
    const { made, seen } = await judged('GET http://a.example/v1/');
    const pieces = [
      request('GET /v1/a%20b', 'A.Example:80'),
      request('GET http://a.example/v1/c?q=//', 'a.example', last),
    ];
    await talk(made.port, pieces);
    expect(seen).toEqual(['GET A.Example:80 /v1/a%20b 0', 'GET a.example /v1/c?q=// 0']);
  });
  it('TLS to a name with rules for plain HTTP only is refused', async () => {
    const made = await tlsWorld();
    made.policy = policyOf('GET http://a.example/v1/');
    made.pins.pin('a.example', [PUBLIC], 60);
    made.destination = { address: PUBLIC, port: 443 };
    const { code } = await sClient(made, '-servername', 'a.example');
    expect(code).not.toBe(0);
    expect(made.reasons()).toEqual(['name_refused']);
  });
});

const identity = certificate();

async function httpsWorld(
  allow: readonly string[],
  { hasAuthority = true, budgets = new DestinationBudgets([], {}) } = {},
) {
  const authority = new CertificateAuthority(systemClock);
  const roots = createSecureContext({ ca: identity.cert });
  const secrets: EgressSecrets = { secrets: [], authority, roots: () => roots };
  const made = await world(443, { budgets, secrets: () => (hasAuthority ? secrets : undefined) });
  made.policy = namePolicy(parsePolicy({ mode: 'allowlist', allow }), budgets);
  for (const name of ['a.example', 'b.example']) made.pins.pin(name, [PUBLIC], 60);
  made.destination = { address: PUBLIC, port: 443 };
  const seen: string[] = [];
  const answer = (request: IncomingMessage, response: ServerResponse): void => {
    seen.push(`${request.method} ${request.headers.host} ${request.url}`);
    if (request.url?.startsWith('/v1/zip') === true) {
      response.setHeader('content-encoding', 'gzip');
      response.end(gzipSync(`asked ${request.headers['accept-encoding']}`));
    } else if (request.headers.range !== undefined) {
      response.writeHead(206, { 'content-range': 'bytes 0-3/9' });
      response.end('part');
    } else response.end(`hello ${request.method}\n`);
  };
  const server = createServer(identity, answer);
  // The server closes no idle connection, so that each close is the gateway's.
  server.keepAliveTimeout = 0;
  server.on('upgrade', (request, socket) => {
    seen.push(`upgrade ${request.url}`);
    socket.on('error', () => socket.destroy());
    socket.write('HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
    socket.pipe(socket);
  });
  server.on('tlsClientError', () => undefined);
  made.internet.set(`${PUBLIC}:443`, await listen(server));
  undo.push(
    () => server.close(),
    () => server.closeAllConnections(),
  );
  const folder = mkdtempSync(join(tmpdir(), 'nv-root-'));
  undo.push(() => rmSync(folder, { recursive: true, force: true }));
  const rootFile = join(folder, 'root.pem');
  const root = await authority.certificate();
  writeFileSync(rootFile, root);
  const client = (url: string, ...args: string[]) => {
    const to = `${new URL(url).hostname}:443:${HOST}:${made.port}`;
    const common = ['-sS', '--path-as-is', '--noproxy', '*', '--connect-to', to];
    return command('curl', [...common, '--cacert', rootFile, ...args, url]);
  };
  return { made, seen, client, root };
}

describe('Gateway: rules by path, TLS', () => {
  it('allowed requests pass unchanged, and refused ones get the reason', async () => {
    const { made, seen, client } = await httpsWorld(['GET https://a.example/v1/']);
    expect((await client('https://a.example/v1/x?q=1')).out).toBe('hello GET\n');
    const refused = await client('https://a.example/admin', '-i');
    expect(refused.out).toContain('403');
    expect(refused.out).toContain('"path_refused"');
    expect((await client('https://a.example/v1/%2e%2e/admin')).out).toContain('path_ambiguous');
    expect((await client('https://a.example/v1/x', '-X', 'DELETE')).out).toContain('method_refused');
    expect(seen).toEqual(['GET a.example /v1/x?q=1']);
    expect(made.reasons()).toContain('path_refused');
  });
  it('compressed and partial answers pass, since the host has no secrets', async () => {
    const { client } = await httpsWorld(['GET https://a.example/v1/']);
    expect((await client('https://a.example/v1/zip', '--compressed')).out).toMatch(/^asked .*gzip/);
    expect((await client('https://a.example/v1/x', '-r', '0-3')).out).toBe('part');
  });
  it('ALPN offers no HTTP/2', async () => {
    const { client } = await httpsWorld(['GET https://a.example/v1/']);
    const got = await client('https://a.example/v1/x', '--http2', '-w', '%{http_version}');
    expect(got.out).toBe('hello GET\n1.1');
  });
  it('a second Host inside the TLS of another name is refused', async () => {
    const { client, seen } = await httpsWorld(['GET https://a.example/v1/', 'b.example']);
    const got = await client('https://a.example/v1/x', '-H', 'Host: b.example');
    expect(got.out).toContain('host_not_sni');
    expect(seen).toEqual([]);
  });
  it('TLS to a name without rules by path is not decrypted', async () => {
    const { made, root } = await httpsWorld(['GET https://a.example/v1/', 'b.example']);
    const certificateOf = (servername: string) =>
      new Promise<string>((resolve, reject) => {
        const socket = connectTls({
          host: HOST,
          port: made.port,
          servername,
          ca: [root, identity.cert],
          checkServerIdentity: () => undefined,
        });
        socket.once('error', reject);
        socket.once('secureConnect', () => {
          resolve(String(socket.getPeerCertificate().issuer.O ?? 'the server’s own'));
          socket.destroy();
        });
      });
    expect(await certificateOf('a.example')).toBe('NeuroVisor');
    expect(await certificateOf('b.example')).toBe('the server’s own');
  });
  it('without a certificate that the guest trusts, nothing passes', async () => {
    const { made, seen } = await httpsWorld(['GET https://a.example/v1/'], { hasAuthority: false });
    const { code } = await sClient(made, '-servername', 'a.example');
    expect(code).not.toBe(0);
    expect(made.reasons()).toEqual(['request_refused']);
    expect(seen).toEqual([]);
  });
  it('an address that is not pinned to the name is refused', async () => {
    const { made, client } = await httpsWorld(['GET https://a.example/v1/', `${PUBLIC}`]);
    made.destination = { address: '93.184.216.35', port: 443 };
    expect((await client('https://a.example/v1/x')).code).not.toBe(0);
    expect(made.reasons()).toEqual(['not_pinned']);
  });
  it('budgets by name count bytes inside of TLS; bytes beyond are not forwarded', async () => {
    const budgets = new DestinationBudgets([{ name: 'a.example', bytesMax: 10_000 }], {});
    const { client, seen } = await httpsWorld(['GET https://a.example/v1/'], { budgets });
    expect((await client('https://a.example/v1/x')).out).toBe('hello GET\n');
    const used = budgets.use()[0]?.bytesUsed ?? 0;
    expect(used).toBeGreaterThan(100);
    budgets.setLimits([{ name: 'a.example', bytesMax: used * 2 - 5 }]);
    const cut = await client('https://a.example/v1/x');
    expect([cut.code === 0, cut.out.includes('hello'), seen.length]).toEqual([false, false, 2]);
    expect(budgets.isExhausted('a.example')).toBe(true);
    const refused = await client('https://a.example/v1/x');
    expect([refused.code === 0, seen.length]).toEqual([false, 2]);
  });
  it('a WebSocket needs a WEBSOCKET rule, and then passes both ways', async () => {
    const ask = async (allow: string) => {
      const { made, root, seen } = await httpsWorld([allow]);
      const socket = connectTls({ host: HOST, port: made.port, servername: 'a.example', ca: root });
      let text = '';
      socket.write('GET /live HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
      await new Promise<void>((resolve) => {
        socket.on('error', () => resolve());
        socket.on('close', () => resolve());
        socket.on('data', (bytes) => {
          text += bytes.toString('latin1');
          if (text.endsWith('\r\n\r\n') && text.includes(' 101 ')) socket.write('no frame\n');
          if (text.endsWith('no frame\n')) socket.destroy();
        });
      });
      return { text, seen };
    };
    const refused = await ask('GET https://a.example/live');
    expect(refused.text).toContain('method_refused');
    expect(refused.seen).toEqual([]);
    const taken = await ask('WEBSOCKET https://a.example/live');
    expect(taken.text).toMatch(/ 101 [\s\S]*no frame\n$/);
    expect(taken.seen).toEqual(['upgrade /live']);
  });
  it('changed rules end connections that they no longer allow, and undecrypted TLS', async () => {
    const { made, root } = await httpsWorld(['GET https://a.example/v1/', 'b.example']);
    const open = async (servername: string) => {
      const socket = connectTls({
        host: HOST,
        port: made.port,
        servername,
        ca: [root, identity.cert],
        checkServerIdentity: () => undefined,
      });
      socket.on('error', () => socket.destroy());
      const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
      const ask = async () => {
        const answered = new Promise<void>((resolve) => socket.once('data', () => resolve()));
        socket.write(`GET /v1/x HTTP/1.1\r\nHost: ${servername}\r\n\r\n`);
        await Promise.race([answered, closed.then(() => Promise.reject(new Error('closed')))]);
      };
      await ask();
      return { ask, closed };
    };
    const [a, b] = [await open('a.example'), await open('b.example')];
    made.policy = policyOf('GET https://a.example/', 'b.example');
    made.gateway.judgeSandbox('sb-1');
    await a.ask();
    await b.ask();
    made.policy = policyOf('GET https://a.example/v2/', 'GET https://b.example/v1/');
    made.gateway.judgeSandbox('sb-1');
    await Promise.all([a.closed, b.closed]);
  });
});
