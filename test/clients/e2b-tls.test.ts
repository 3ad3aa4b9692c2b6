/** E2B's clients by their domain alone: names of a wildcard, and TLS with an authority of the test. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { get } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Authority, makeAuthority } from '../support/certificate-authority.ts';
import { pythonClient } from '../support/e2b-clients.ts';
import { type E2bWorld, openE2bWorld } from '../support/e2b-world.ts';
import { startRawServer } from '../support/raw-http.ts';
import { requires, requiresRoot } from '../support/requires.ts';
import { type Names, openNames } from '../support/wildcard-names.ts';

/**
 * Python's client resolves by itself, without the C library: `.localhost` is the loopback address, and `/etc/hosts` is read
 * only at its start.
 */
const DOMAIN = 'sbx.localhost';
const FIXTURES = fileURLToPath(new URL('../fixtures/e2b-tls/', import.meta.url));

let world: E2bWorld;
let home: string;
let authority: Authority;
let names: Names;
let caPath: string;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'nv-e2b-'));
  authority = await makeAuthority();
  caPath = join(home, 'ca.pem');
  await writeFile(caPath, authority.cert);
  const certificate = await authority.issue([DOMAIN, `*.${DOMAIN}`]);
  world = await openE2bWorld({ home, certificate, domain: DOMAIN });
  names = openNames();
  names.add(`api.${DOMAIN}`);
});
afterAll(async () => {
  names[Symbol.dispose]();
  await world[Symbol.asyncDispose]();
  await rm(home, { recursive: true, force: true });
});

/** Runs a client with nothing but its domain, its key and the authority; names of new sandboxes resolve at once. */
async function use(
  program: string,
  args: readonly string[],
  port: number,
  more: Readonly<Record<string, string>> = {},
): Promise<unknown> {
  const stop = world.control.onChange(({ id }) => {
    names.add(`${port}-${id}.${DOMAIN}`);
    names.add(`49983-${id}.${DOMAIN}`);
  });
  const wrapped = names.wrap(program, args);
  const env = {
    ...more,
    PATH: process.env['PATH'],
    HOME: home,
    E2B_API_KEY: world.apiKey,
    E2B_DOMAIN: world.domain,
    NODE_EXTRA_CA_CERTS: caPath,
    SSL_CERT_FILE: caPath,
  };
  const output = await new Promise<string>((resolve, reject) => {
    execFile(wrapped.program, [...wrapped.args], { env }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout);
      else reject(new Error(`${stderr}\n${stdout}`));
    });
  });
  stop();
  return JSON.parse(output);
}

const SEEN = { stdout: 'over TLS\n', content: 'by name', signed: 'by name', page: 'page', running: true, after: false };

requiresRoot().describe('clients with E2B_DOMAIN alone', () => {
  it('in JavaScript create, use and end a sandbox', async () => {
    await using server = await startRawServer('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage');
    const script = join(FIXTURES, 'use.mjs');
    const module = import.meta.resolve('e2b');
    expect(await use(process.execPath, [script, module, `${server.port}`], server.port)).toEqual(SEEN);
  });
});

const python = requires('generators', pythonClient('newest'));
python.describe('the Python client with E2B_DOMAIN alone', (client) => {
  requiresRoot().it.each(['sync', 'async'])('%s: creates, uses and ends a sandbox', async (mode) => {
    await using server = await startRawServer('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage');
    const args = [...client.args, join(FIXTURES, 'use.py'), `${server.port}`, mode];
    expect(await use(client.program, args, server.port, client.env)).toEqual(SEEN);
  });
});

describe('TLS', () => {
  const handshake = (ALPNProtocols: string[]) =>
    new Promise<{ serial: string; alpn: string | false | null }>((resolve, reject) => {
      const { port } = new URL(world.url);
      const servername = `api.${DOMAIN}`;
      const ca = authority.cert;
      const socket = connect({ port: Number(port), ca, servername, ALPNProtocols }, () => {
        resolve({ serial: socket.getPeerCertificate().serialNumber, alpn: socket.alpnProtocol });
        socket.destroy();
      });
      socket.once('error', reject);
    });

  it('is HTTP/1.1 for clients that offer HTTP/2, too', async () => {
    expect((await handshake(['h2', 'http/1.1'])).alpn).toBe('http/1.1');
  });

  it('gets a renewed certificate without a restart, and keeps it if the next is broken', async () => {
    const { serial } = await handshake(['http/1.1']);
    world.api.setCertificate(await authority.issue([DOMAIN, `*.${DOMAIN}`]));
    const renewed = await handshake(['http/1.1']);
    expect(renewed.serial).not.toBe(serial);
    expect(() => world.api.setCertificate({ cert: 'no', key: 'no' })).toThrow();
    expect(await handshake(['http/1.1'])).toEqual(renewed);
  });

  it('is for our own interface, too, by the names of this machine only', async () => {
    const ask = (host: string): Promise<number | undefined> =>
      new Promise((resolve, reject) => {
        const headers = { host, 'x-api-key': world.apiKey };
        const options = { ca: authority.cert, servername: DOMAIN, headers, agent: false };
        get(`${world.url}/v1/host`, options, (answer) => {
          answer.resume();
          resolve(answer.statusCode);
        }).once('error', reject);
      });
    expect(await ask(`api.${DOMAIN}`)).toBe(200);
    expect(await ask('rebound.example')).toBe(403);
  });
});

it('no error is logged', () => expect(world.errors).toEqual([]));
