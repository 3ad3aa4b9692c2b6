/**
 * Proves that the package gateway is no way out and no way in: requests that a guest's root can send to its port, and
 * answers of a hostile index, are tried without a VM, at the socket where a guest's bytes arrive.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { Agent, request as requestHttp } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { ECOSYSTEMS, NO_PACKAGES, type PackagePolicy } from '../../src/base/request/package-policy.ts';
import { MIB } from '../../src/base/units.ts';
import {
  createPackageGateway,
  type PackageGateway,
  type PackagePort,
  type PackagesOptions,
} from '../../src/egress/packages/gateway.ts';
import { PORT_LIMITS } from '../../src/egress/packages/limits.ts';
import { Notes, type Proof } from '../proof.ts';
import {
  digestOf,
  GOOD,
  type HostileIndex,
  PASSWORD,
  PROXY_LOGIN,
  SCOPE_TOKEN,
  SECRET,
  startHostileIndex,
} from './hostile-index.ts';

const ALL: PackagePolicy = { ...NO_PACKAGES, ecosystems: ECOSYSTEMS };
/** Shorter than the product's, so that a proof takes seconds. */
const LIMITS = { silenceTimeoutMs: 500, pageTimeoutMs: 5_000, fileBytesMax: 8 * MIB };
const ANSWER_MS_MAX = 10_000;

/** Links of pages to forbidden targets. */
const badLinks = (service: string): Readonly<Record<string, string>> => {
  const port = new URL(service).port;
  return {
    loopback: `${service}/x`,
    'by-name': `http://localhost:${port}/x`,
    decimal: `http://2130706433:${port}/x`,
    octal: `http://0177.0.0.1:${port}/x`,
    mapped: `http://[::ffff:127.0.0.1]:${port}/x`,
    any: `http://0.0.0.0:${port}/x`,
    metadata: 'http://169.254.169.254/latest/meta-data/',
    private: 'http://10.0.0.1/x',
    'with-password': `http://me:password@127.0.0.1:${port}/x`,
    'of-a-file': 'file:///etc/passwd',
    'of-ftp': `ftp://127.0.0.1:${port}/x`,
    redirected: '/files/redirect',
  };
};
/** The same behind a proxy, which would resolve and reach anything. */
const badLinksBehindProxy: Readonly<Record<string, string>> = {
  'proxied-metadata': 'https://169.254.169.254/latest/meta-data/',
  'proxied-private': 'https://10.0.0.1/x',
  'proxied-loopback': 'https://127.0.0.1:8443/x',
  'proxied-mapped': 'https://[::ffff:127.0.0.1]:8443/x',
  'proxied-inside': 'https://inside.invalid/x',
  'proxied-plain': 'http://inside.invalid/x',
};

interface Context {
  readonly notes: Notes;
  readonly index: HostileIndex;
  /** Creates a new sandbox's port. */
  attach(policy: PackagePolicy): Promise<{ readonly socketPath: string; readonly port: PackagePort }>;
  /** Sends bytes as a new sandbox. */
  send(text: string, policy?: PackagePolicy): Promise<string>;
  /** Everything that any sandbox received. */
  readonly received: string[];
}

/** @param broken for tests: a gateway that takes every address for a public one */
export async function provePackages(broken: Partial<Pick<PackagesOptions, 'isPublic'>> = {}): Promise<Proof> {
  const dir = await mkdtemp(join(tmpdir(), 'nv-prove-packages-'));
  await using index = await startHostileIndex((service) => ({
    good: '/files/good',
    wrong: '/files/wrong',
    short: '/files/short',
    endless: '/files/endless',
    silent: '/files/silent',
    circle: '/files/circle',
    ...badLinks(service),
    ...badLinksBehindProxy,
  }));
  const own = { baseUrl: `${index.origin}/`, authorization: PASSWORD };
  const parts = { cacheDir: dir, ...broken, clock: systemClock, log: silentLog, upstreamLimits: LIMITS };
  const gateway = createPackageGateway({
    ...parts,
    indexes: async () => ({
      pip: { ...own, baseUrl: `${own.baseUrl}simple/` },
      npm: own,
      npmScopes: { '@proof': { baseUrl: `${own.baseUrl}scope/`, authorization: SCOPE_TOKEN } },
      cargo: own,
      go: own,
      debian: own,
    }),
  });
  const proxy = index.origin.replace('//', `//${PROXY_LOGIN}@`);
  const proxies = { http: proxy, https: proxy, except: '' };
  const behindProxy = createPackageGateway({
    ...parts,
    indexes: async () => ({ pip: { baseUrl: 'http://index.invalid/simple/', proxies } }),
  });
  const notes = new Notes();
  const received: string[] = [];
  const attach = attacher(gateway, dir, 'v');
  const context: Context = { notes, index, attach, send: sender(attach, received), received };
  try {
    await controls(context);
    await requests(context);
    await fields(context);
    await links(context);
    await answers(context);
    await scopes(context);
    await proxied({ ...context, send: sender(attacher(behindProxy, dir, 'p'), received) });
    await names(context);
    secrets(context);
  } finally {
    await gateway.close();
    await behindProxy.close();
    await rm(dir, { recursive: true, force: true });
  }
  return notes.proof('packages');
}

function attacher(gateway: PackageGateway, dir: string, prefix: string): Context['attach'] {
  let sandboxes = 0;
  return async (policy) => {
    sandboxes += 1;
    const socketPath = join(dir, `${prefix}_${sandboxes}`);
    const port = await gateway.attach({ sandboxId: `s${sandboxes}`, socketPath, policy });
    return { socketPath, port };
  };
}

function sender(attach: Context['attach'], received: string[]): Context['send'] {
  return async (text, policy = ALL) => {
    const { socketPath, port } = await attach(policy);
    const answer = await exchange(socketPath, text);
    received.push(answer);
    await port.close();
    return answer;
  };
}

/** Everything received until the other end closes, in Latin-1. */
function exchange(socketPath: string, text: string): Promise<string> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    const socket = connect(socketPath, () => socket.write(text, 'latin1'));
    const end = (): void => {
      cancel();
      socket.destroy();
      resolve(Buffer.concat(chunks).toString('latin1'));
    };
    const cancel = systemClock.after(ANSWER_MS_MAX, end);
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    for (const event of ['end', 'close', 'error']) socket.once(event, end);
  });
}

const get = (path: string, more = ''): string =>
  `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1:11435\r\nConnection: close\r\n${more}\r\n`;
const fileOf = (name: string): string =>
  `/pypi/files/${digestOf(name)}/${name.replaceAll('-', '_')}-1.0-py3-none-any.whl`;
const statusOf = (answer: string): string => /^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1] ?? 'closed';

async function controls({ notes, send, index }: Context): Promise<void> {
  const page = await send(get('/pypi/simple/good/'));
  const links = page.includes(`../../files/${digestOf('good')}/`) && !page.includes(index.origin);
  notes.note('control: a page', '200, links of the gateway', statusOf(page), links);
  const file = await send(get(fileOf('good')));
  const isGood = file.endsWith(GOOD.toString('latin1'));
  notes.note('control: a file', '200, the whole file', statusOf(file), isGood);
}

/** Requests for no package: refused, and the index learns nothing of them. */
async function requests({ notes, index, send }: Context): Promise<void> {
  const body = 'x=stolen';
  const withBody = (method: string, path: string): string =>
    `${method} ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  const { port } = new URL(index.service);
  const tries: Readonly<Record<string, string>> = {
    'a query string': get('/pypi/simple/good/?d=stolen'),
    'an encoded query string': get('/pypi/simple/good%3fd=stolen/'),
    'a fragment': get('/pypi/simple/good/#stolen'),
    dots: get('/pypi/simple/../../stolen/'),
    'encoded dots': get('/pypi/simple/%2e%2e/%2e%2e/stolen/'),
    'an encoded slash': get('/pypi/simple/good%2fstolen/'),
    'an encoded backslash': get('/pypi/simple/good%5cstolen/'),
    'a doubly encoded slash': get('/npm/@a%252fstolen'),
    'a NUL byte': get('/pypi/simple/stolen%00/'),
    'line breaks in the path': get('/pypi/simple/good%0d%0aX-Stolen:1/'),
    'an empty segment': get('/pypi//simple/stolen/'),
    'a host as a path': get('//127.0.0.1/stolen/'),
    'a long name': get(`/pypi/simple/${'stolen'.repeat(30)}/`),
    'a name outside the grammar': get('/pypi/simple/stolen=1/'),
    'a file that is no package': get(`/pypi/files/${digestOf('good')}/stolen.txt`),
    'a file that no page names': get(`/npm/-/stolen/-/stolen-1.0.tgz`),
    'the search of npm': get('/npm/-/v1/search'),
    'a module of Go with dots': get('/go/stolen.example/../x/@v/list'),
    'another checksum database': get('/go/sumdb/stolen.example/latest'),
    'another archive of apt': get('/apt/stolen/dists/x/InRelease'),
    'a proxy request': get(`http://127.0.0.1:${port}/stolen`),
    'a proxy request to a metadata service': get('http://169.254.169.254/stolen'),
    CONNECT: `CONNECT 127.0.0.1:${port} HTTP/1.1\r\nHost: x\r\n\r\nGET /stolen HTTP/1.1\r\n\r\n`,
    'an upload of twine': withBody('POST', '/pypi/simple/'),
    'npm publish': withBody('PUT', '/npm/stolen'),
    'npm audit': withBody('POST', '/npm/-/npm/v1/security/advisories/bulk'),
    DELETE: withBody('DELETE', '/npm/stolen'),
    'a GET with a body': withBody('GET', '/pypi/simple/stolen/'),
    'a chunked body': get('/pypi/simple/stolen/', 'Transfer-Encoding: chunked\r\n'),
    'two lengths': get('/pypi/simple/stolen/', 'Content-Length: 0\r\nContent-Length: 5\r\n'),
    'length and chunks': get('/pypi/simple/stolen/', 'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n'),
    'a folded field': get('/pypi/simple/stolen/', 'X: a\r\n b\r\n'),
    'a bare line feed': 'GET /pypi/simple/stolen/ HTTP/1.1\nHost: x\n\n',
    'HTTP 0.9': 'GET /pypi/simple/stolen/\r\n\r\n',
    'a space in the path': get('/pypi/simple/stolen x/'),
  };
  for (const [what, text] of Object.entries(tries)) {
    const before = index.seen.length;
    const answer = await send(text);
    const asked = index.seen.slice(before).filter((line) => line.includes('stolen')).length;
    const isRefused = ['closed', '4'].includes(statusOf(answer)[0] === '4' ? '4' : statusOf(answer));
    const seen = `${statusOf(answer)}; the index got ${asked} requests`;
    notes.note(`request: ${what}`, 'refused; nothing', seen, isRefused && asked === 0);
  }
  const off = await send(get('/pypi/simple/stolen/'), { ...NO_PACKAGES, ecosystems: ['npm'] });
  const denied = await send(get('/npm/stolen'), { ...ALL, deny: ['stolen'] });
  const asked = index.seen.filter((line) => line.includes('stolen')).length;
  const told = off.includes('0+packages.off') && denied.includes('--packages-deny');
  notes.note('names that the policy refuses', 'the index gets none', `${asked}`, told && asked === 0);
}

/** Fields of a request do not reach the index. */
async function fields({ notes, index, send }: Context): Promise<void> {
  const more = [
    'Authorization: Bearer stolen',
    'Cookie: stolen=1',
    'User-Agent: stolen',
    'Referer: http://stolen/',
    'Accept: text/stolen',
    'Accept-Language: stolen',
    'If-None-Match: "stolen"',
    'If-Modified-Since: stolen',
    'Range: bytes=1-5',
    'X-Forwarded-For: stolen',
    'Upgrade: stolen',
    'Connection: close, Upgrade',
    'Host: stolen',
  ];
  for (const path of ['/pypi/simple/loopback/', fileOf('short')]) {
    const before = index.seen.length;
    await send(`GET ${path} HTTP/1.1\r\n${more.join('\r\n')}\r\n\r\n`);
    const lines = index.seen.slice(before);
    const leaked = lines.filter((line) => line.includes('stolen')).length;
    const seen = `${lines.length} requests, ${leaked} with a field of the guest`;
    notes.note(`fields of a request for ${path.slice(0, 12)}…`, 'none passes', seen, leaked === 0);
  }
}

/** Links and redirects of a hostile index. */
async function links({ notes, index, send }: Context): Promise<void> {
  for (const [name, link] of Object.entries(badLinks(index.service))) {
    const before = index.reached.length;
    const answer = await send(get(fileOf(name)));
    const arrived = index.reached.length - before;
    const ok = arrived === 0 && statusOf(answer) === '403' && !answer.includes(SECRET);
    const shown = link.replace(/:\d{4,5}(?=\/)/, ':PORT');
    notes.note(`link: ${shown}`, '403; nothing arrived', `${statusOf(answer)}; ${arrived}`, ok);
  }
  const circle = await send(get(fileOf('circle')));
  notes.same('a circle of redirects', '502', statusOf(circle));
  const other = await send(get(fileOf('loopback').replace('-1.0', '-2.0')));
  notes.same('a file that the page does not name', '404', statusOf(other));
}

/** A scope of npm with a registry of its own. */
async function scopes({ notes, index, send }: Context): Promise<void> {
  const before = index.seen.length;
  await send(get('/npm/@proof%2fx'));
  await send(get('/npm/@other%2fx'));
  await send(get('/npm/@proof-2%2fx'));
  const lines = index.seen.slice(before);
  const wrong = lines.filter((line) => line.includes(' /scope/') !== line.includes(SCOPE_TOKEN)).length;
  const seen = `${lines.length} requests, ${wrong} with the token of another registry`;
  notes.note('the token of a scope of npm', 'goes to its registry', seen, wrong === 0);
}

/** An index behind a proxy of the host. */
async function proxied({ notes, index, send }: Context): Promise<void> {
  const before = index.seen.length;
  const page = await send(get('/pypi/simple/good/'));
  const wasAsked = index.seen.slice(before).some((line) => line.includes('http://index.invalid/'));
  const isPage = wasAsked && page.includes(digestOf('good'));
  notes.note('control: a page through the host’s proxy', '200', statusOf(page), isPage);
  for (const [name, link] of Object.entries(badLinksBehindProxy)) {
    const lines = index.seen.length;
    const answer = await send(get(fileOf(name)));
    // The page itself is one request.
    const asked = index.seen.slice(lines).filter((line) => !line.includes('/simple/')).length;
    const arrived = asked + index.tunnels.length;
    const ok = arrived === 0 && statusOf(answer) === '403';
    const seen = `${statusOf(answer)}; ${arrived}`;
    notes.note(`link behind a proxy: ${link}`, '403; the proxy is asked nothing', seen, ok);
  }
}

/** Answers of a hostile index. */
async function answers({ notes, send }: Context): Promise<void> {
  notes.same('a page of 40 MiB', '502', statusOf(await send(get('/pypi/simple/huge/'))));
  notes.same('a page of 200 MiB, compressed', '502', statusOf(await send(get('/pypi/simple/bomb/'))));
  notes.same('a silent index', '504', statusOf(await send(get(fileOf('silent')))));
  for (const [name, what] of [
    ['wrong', 'a file with another digest'],
    ['short', 'a file that breaks off'],
    ['endless', 'a file without an end'],
  ] as const) {
    const answer = await send(get(fileOf(name)));
    const [head = '', ...rest] = answer.split('\r\n\r\n');
    const isWhole = rest.join('\r\n\r\n').length >= GOOD.length && name !== 'endless';
    const isEnded = /chunked/i.test(head) && answer.endsWith('0\r\n\r\n');
    const seen = isWhole || isEnded ? 'it looks complete' : 'cut';
    notes.same(what, 'cut', seen);
  }
}

/** Names are the remaining channel. It is bounded, not closed. */
async function names({ notes, index, attach }: Context): Promise<void> {
  const { unknownNamesMax: most } = PORT_LIMITS;
  const count = most + 50;
  const before = index.seen.length;
  const { socketPath, port } = await attach(ALL);
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  // One after another, like a patient guest.
  for (let at = 0; at < count; at += 1) await ask(socketPath, agent, `/pypi/simple/data-${at}/`);
  agent.destroy();
  await port.close();
  const asked = index.seen.slice(before).length;
  notes.same(`of ${count} names that do not exist, the index gets`, `${most}`, `${asked}`);
}

function ask(socketPath: string, agent: Agent, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const request = requestHttp({ socketPath, agent, path }, (answer) => {
      answer.resume();
      answer.once('end', resolve);
    });
    request.once('error', reject);
    request.end();
  });
}

function secrets({ notes, index, received }: Context): void {
  const all = received.join('\n');
  const login = Buffer.from(PROXY_LOGIN).toString('base64');
  const credentials = [PASSWORD, SCOPE_TOKEN, PROXY_LOGIN, login];
  const leaks = [...credentials, index.origin, 'index.invalid', new URL(index.service).host, SECRET].filter((text) =>
    all.includes(text),
  );
  notes.note(
    'all answers together: passwords, addresses of indexes, content of the service',
    'none',
    leaks.length === 0 ? 'none' : `${leaks.length} of them`,
    leaks.length === 0,
  );
  notes.same('requests that reached the internal service', '0', `${index.reached.length}`);
}
