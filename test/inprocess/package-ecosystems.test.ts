/** npm, cargo, Go and apt through the package gateway, with scripted indexes. */
import { createHash } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ECOSYSTEMS, NO_PACKAGES, type PackagePolicy } from '../../src/base/request/package-policy.ts';
import { type Answer, fetchPackage, openPackageWorld, type PackageWorld } from '../support/package-world.ts';

const ALL: PackagePolicy = { ...NO_PACKAGES, ecosystems: ECOSYSTEMS };
const TARBALL = Buffer.alloc(5000, 7);
const INTEGRITY = `sha512-${createHash('sha512').update(TARBALL).digest('base64')}`;
const SHA256 = createHash('sha256').update(TARBALL).digest('hex');

let world: PackageWorld;

beforeEach(async () => {
  world = await openPackageWorld(({ origin }) => ({
    npm: { baseUrl: `${origin}/npm/` },
    cargo: { baseUrl: `${origin}/cargo/` },
    go: { baseUrl: `${origin}/go/` },
    sumdb: { baseUrl: `${origin}/sumdb-direct/` },
    debian: { baseUrl: `${origin}/debian/` },
  }));
});
afterEach(() => world[Symbol.asyncDispose]());

const answerAll = (answers: Readonly<Record<string, string | Buffer>>): void => {
  for (const [target, body] of Object.entries(answers)) {
    world.index.answer(target, (_request, response) => void response.end(body));
  }
};
const targets = (): string[] => world.index.seen.map(({ target }) => target);

async function get(path: string, policy = ALL, headers = {}): Promise<Answer> {
  return await fetchPackage(await world.attach(policy), path, headers);
}

function npmVersion(version: string, dist: object = {}): object {
  return { dist: { tarball: `${world.index.origin}/npm/t.tgz`, integrity: INTEGRITY, ...dist }, version };
}

describe('npm', () => {
  beforeEach(() => {
    const versions = { '1.0.0': npmVersion('1.0.0'), '2.0.0': npmVersion('2.0.0') };
    const time = { '1.0.0': '2020-01-01T00:00:00Z', '2.0.0': new Date().toISOString() };
    const packument = { versions, time, 'dist-tags': { latest: '2.0.0' } };
    answerAll({ '/npm/@a%2fb': JSON.stringify(packument), '/npm/t.tgz': TARBALL });
  });

  it('a packument points to the gateway as the client reached it; the tarball is checked by SHA-512', async () => {
    const page = await get('/npm/@a%2Fb', ALL, { host: '127.0.0.1:4000' });
    const { versions } = JSON.parse(page.body.toString()) as {
      versions: Record<string, { dist: { tarball: string } }>;
    };
    const tarball = versions['2.0.0']?.dist.tarball;
    expect(tarball).toBe('http://127.0.0.1:4000/npm/@a/b/-/b-2.0.0.tgz');
    const file = await get('/npm/@a/b/-/b-2.0.0.tgz');
    expect([file.status, file.body.equals(TARBALL)]).toEqual([200, true]);
    expect(world.fetches.at(-1)).toMatchObject({ outcome: 'ok', name: '@a/b', version: '2.0.0' });
  });

  it('a minimum age removes young versions and adapts latest', async () => {
    const policy = { ...ALL, minAgeMs: 86_400_000 };
    const page = await get('/npm/@a%2fb', policy);
    expect(JSON.parse(page.body.toString())).toMatchObject({ 'dist-tags': { latest: '1.0.0' } });
    expect((await get('/npm/@a/b/-/b-2.0.0.tgz', policy)).status).toBe(403);
    expect((await get('/npm/@a/b/-/b-1.0.0.tgz', policy)).status).toBe(200);
  });

  it('a foreign Host field does not become a link', async () => {
    const page = await get('/npm/@a%2fb', ALL, { host: 'evil.example' });
    expect(page.body.toString()).not.toContain('evil');
  });

  it('the audit, which would send the list of dependencies, is refused', async () => {
    const socket = await world.attach(ALL);
    const path = '/npm/-/npm/v1/security/advisories/bulk';
    expect((await fetchPackage(socket, path, {}, 'POST')).status).toBe(405);
    expect(targets()).toEqual([]);
  });
});

describe('cargo', () => {
  it('the index points to the gateway; a crate is checked by its checksum', async () => {
    const line = { name: 'Demo', vers: '1.0.0', deps: [], cksum: SHA256, features: {} };
    answerAll({
      '/cargo/config.json': JSON.stringify({ dl: `${world.index.origin}/crates` }),
      '/cargo/de/mo/demo': `${JSON.stringify(line)}\n`,
      '/crates/Demo/1.0.0/download': TARBALL,
    });
    const config = await get('/cargo/index/config.json', ALL, { host: '127.0.0.1:4000' });
    expect(JSON.parse(config.body.toString())).toEqual({
      dl: 'http://127.0.0.1:4000/cargo/dl/{crate}/{version}/{sha256-checksum}',
    });
    expect((await get('/cargo/index/de/mo/demo')).body.toString()).toContain(SHA256);
    const crate = await get(`/cargo/dl/Demo/1.0.0/${SHA256}`);
    expect([crate.status, crate.body.equals(TARBALL)]).toEqual([200, true]);
    expect((await get(`/cargo/dl/Demo/1.0.0/${'0'.repeat(64)}`)).status).toBe(404);
  });
});

describe('go: private modules of the host', () => {
  it('their names reach neither the proxy nor the checksum database, and the refusal names the remedy', async () => {
    const { origin } = world.index;
    const except = ['*.corp.example'];
    await using own = await openPackageWorld(() => ({
      go: { baseUrl: `${origin}/go/`, except },
      sumdb: { baseUrl: `${origin}/sumdb/`, except },
    }));
    const port = await own.attach(ALL);
    for (const [path, remedy] of [
      ['/go/git.corp.example/a/@v/list', '--copy or a vendor directory'],
      ['/go/sumdb/sum.golang.org/lookup/git.corp.example/a@v1.0.0', 'set GONOSUMDB'],
    ] as const) {
      const answer = await fetchPackage(port, path);
      expect([answer.status, answer.phrase]).toEqual([403, expect.stringContaining(remedy)]);
    }
    expect(targets().filter((target) => target.includes('corp'))).toEqual([]);
  });
});

describe('go', () => {
  it('a version is fetched once; a branch each time the page expires; the database through the proxy', async () => {
    answerAll({
      '/go/a.example/b/@v/v1.0.0.zip': TARBALL,
      '/go/a.example/b/@v/main.info': '{"Version":"v0.0.0"}',
      '/go/sumdb/sum.golang.org/supported': '',
      '/go/sumdb/sum.golang.org/latest': 'tree',
    });
    for (let round = 0; round < 2; round += 1) {
      expect((await get('/go/a.example/b/@v/v1.0.0.zip')).body.equals(TARBALL)).toBe(true);
    }
    expect((await get('/go/a.example/b/@v/main.info')).body.toString()).toContain('v0.0.0');
    expect((await get('/go/sumdb/sum.golang.org/supported')).status).toBe(200);
    expect((await get('/go/sumdb/sum.golang.org/latest')).body.toString()).toBe('tree');
    expect(targets().filter((target) => target.endsWith('.zip'))).toHaveLength(1);
  });

  it('without a database behind the proxy, the gateway asks the database itself', async () => {
    answerAll({ '/sumdb-direct/latest': 'direct' });
    expect((await get('/go/sumdb/sum.golang.org/latest')).body.toString()).toBe('direct');
  });

  it('a proxy that fails once is asked again for the database', async () => {
    let asked = 0;
    world.index.answer('/go/sumdb/sum.golang.org/supported', (_request, response) => {
      asked += 1;
      response.statusCode = asked === 1 ? 503 : 200;
      response.end();
    });
    answerAll({ '/go/sumdb/sum.golang.org/latest': 'tree' });
    await get('/go/sumdb/sum.golang.org/latest');
    expect((await get('/go/sumdb/sum.golang.org/latest')).body.toString()).toBe('tree');
  });

  it('a minimum age refuses a version by its time', async () => {
    answerAll({
      '/go/a.example/b/@v/v1.0.0.info': '{"Time":"2020-01-01T00:00:00Z"}',
      '/go/a.example/b/@v/v1.0.0.zip': TARBALL,
      '/go/a.example/b/@v/v2.0.0.info': JSON.stringify({ Time: new Date().toISOString() }),
      '/go/a.example/b/@v/v2.0.0.zip': TARBALL,
    });
    const policy = { ...ALL, minAgeMs: 86_400_000 };
    expect((await get('/go/a.example/b/@v/v1.0.0.zip', policy)).status).toBe(200);
    const young = await get('/go/a.example/b/@v/v2.0.0.zip', policy);
    expect([young.status, young.phrase.includes('younger')]).toEqual([403, true]);
  });
});

describe('apt', () => {
  it('lists keep their date, by which apt sees that they are unchanged; packages are cached', async () => {
    const date = 'Sat, 01 Nov 2025 10:00:00 GMT';
    world.index.answer('/debian/dists/s/InRelease', (_request, response) => {
      response.setHeader('last-modified', date);
      response.end('signed');
    });
    answerAll({ '/debian/pool/main/h/hello/hello_1-1_amd64.deb': TARBALL });
    const list = await get('http://deb.debian.org/debian/dists/s/InRelease');
    expect([list.body.toString(), list.headers['last-modified']]).toEqual(['signed', date]);
    const again = await get('/apt/debian/dists/s/InRelease', ALL, { 'if-modified-since': date });
    expect(again.status).toBe(304);
    for (let round = 0; round < 2; round += 1) {
      const file = await get('/apt/debian/pool/main/h/hello/hello_1-1_amd64.deb');
      expect(file.body.equals(TARBALL)).toBe(true);
    }
    expect(targets().filter((target) => target.endsWith('.deb'))).toHaveLength(1);
  });

  it('a list requested by its hash is checked', async () => {
    const path = `dists/s/main/binary-amd64/by-hash/SHA256/${SHA256}`;
    answerAll({ [`/debian/${path}`]: Buffer.alloc(5000, 8) });
    expect((await get(`/apt/debian/${path}`)).isCut).toBe(true);
  });

  it('denied packages are refused, and other archives do not exist', async () => {
    const denied = { ...ALL, deny: ['apt:hello'] };
    const path = '/apt/debian/pool/main/h/hello/hello_1-1_amd64.deb';
    expect((await get(path, denied)).status).toBe(403);
    expect((await get('/apt/mint/dists/s/InRelease')).status).toBe(404);
    expect((await get('http://169.254.169.254/debian/dists/s/InRelease')).status).toBe(403);
    expect(targets()).toEqual([]);
  });
});

describe('every kind', () => {
  it('a kind that --packages does not name is refused with the remedy, before any index is asked', async () => {
    const sha = '0'.repeat(64);
    for (const [kind, path] of [
      ['pip', `/pypi/files/${sha}/a-1-py3-none-any.whl`],
      ['npm', '/npm/a'],
      ['cargo', '/cargo/index/config.json'],
      ['go', '/go/a.example/b/@v/list'],
      ['apt', '/apt/debian/dists/s/InRelease'],
    ] as const) {
      const others = ECOSYSTEMS.filter((one) => one !== kind);
      const answer = await get(path, { ...NO_PACKAGES, ecosystems: others });
      expect([kind, answer.status, answer.phrase]).toEqual([
        kind,
        403,
        `This sandbox may not fetch ${kind} packages: create it with --packages ${kind}.`,
      ]);
      const { error } = JSON.parse(answer.body.toString()) as { error: string };
      expect(error).toBe(answer.phrase);
    }
    expect(targets()).toEqual([]);
  });

  it('a kind without an index on the host is refused with the remedy for the host', async () => {
    const sha = '0'.repeat(64);
    const answer = await get(`/pypi/files/${sha}/a-1-py3-none-any.whl`);
    expect([answer.status, answer.phrase]).toEqual([
      403,
      'This host has no index of pip packages: configure one there.',
    ]);
  });
});
