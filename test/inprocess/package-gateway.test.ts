/** The package gateway with real sockets: a sandbox's port in front, an index on loopback behind. */
import { readdir } from 'node:fs/promises';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HOST_DISK_FULL, NO_PACKAGES, type PackagePolicy } from '../../src/base/request/package-policy.ts';
import type { PackageFetch } from '../../src/egress/packages/gateway.ts';
import { fileOf, type TestIndex, wheelOf } from '../support/package-index.ts';
import { fetchPackage as get, openPackageWorld, type PackageWorld } from '../support/package-world.ts';

const PIP: PackagePolicy = { ...NO_PACKAGES, ecosystems: ['pip'] };
const JSON_TYPE = 'application/vnd.pypi.simple.v1+json';

let world: PackageWorld;
let dir: string;
let index: TestIndex;
let fetches: PackageFetch[];

beforeEach(async () => {
  world = await openPackageWorld();
  ({ dir, index, fetches } = world);
});
afterEach(() => world[Symbol.asyncDispose]());

const attach = (policy: PackagePolicy | null = PIP): Promise<string> => world.attach(policy);

interface Page {
  readonly files: readonly {
    readonly filename: string;
    readonly url: string;
    readonly hashes: { readonly sha256: string };
  }[];
}

async function page(socketPath: string, name: string): Promise<Page> {
  const answer = await get(socketPath, `/pypi/simple/${name}/`, { accept: JSON_TYPE });
  expect([answer.status, answer.headers['content-type']]).toEqual([200, JSON_TYPE]);
  return JSON.parse(answer.body.toString()) as Page;
}

const pathOf = (name: string, url: string): string => new URL(url, `http://x/pypi/simple/${name}/`).pathname;

describe('package gateway', () => {
  it('page and file: both arrive, with links that point back, and without the host’s password', async () => {
    const wheel = wheelOf('demo', '1.0', 'hello');
    index.add(wheel);
    const port = await attach();
    const { files } = await page(port, 'demo');
    expect(files).toHaveLength(1);
    const url = files[0]?.url ?? '';
    expect(pathOf('demo', url)).toBe(`/pypi/files/${wheel.sha256}/${wheel.filename}`);
    const answer = await get(port, pathOf('demo', url));
    expect([answer.status, answer.body.equals(wheel.bytes)]).toEqual([200, true]);
    expect(answer.headers['content-length']).toBe(`${wheel.bytes.length}`);
    for (const { headers } of index.seen) {
      expect(headers).toMatchObject({ authorization: 'Basic c2VjcmV0', 'user-agent': 'neurovisor-packages' });
    }
    expect(fetches.map(({ outcome, file, bytes }) => [outcome, file, bytes])).toEqual([
      ['ok', '', 0],
      ['ok', wheel.filename, wheel.bytes.length],
    ]);
  });

  it('an index at which the host logs in serves only whom the operator lets, also what is cached', async () => {
    const wheel = wheelOf('demo', '1.0', 'hello');
    index.add(wheel);
    const host = new URL(index.index.baseUrl).host;
    expect(await world.gateway.loginOf('pip')).toBe(host);
    expect(await world.gateway.loginOf('npm')).toBeNull();
    const path = `/pypi/files/${wheel.sha256}/${wheel.filename}`;
    expect((await get(await attach(), path)).status).toBe(200);
    const before = index.seen.length;
    let allowed = '';
    const port = await world.attach(PIP, (at) => at === allowed);
    // pip shows what the page says.
    expect((await get(port, '/pypi/simple/demo/')).body.toString()).not.toContain(wheel.filename);
    const refused = await get(port, path);
    expect([refused.status, JSON.parse(refused.body.toString()).code]).toEqual([403, 'no_index']);
    expect(refused.phrase).toContain('logs in at its index of pip packages');
    expect(index.seen.length).toBe(before);
    allowed = host;
    expect((await get(port, path)).body.equals(wheel.bytes)).toBe(true);
    const open = ({ index: own }: TestIndex) => ({ pip: own });
    await using plain = await openPackageWorld(open);
    plain.index.add(wheel);
    expect(await plain.gateway.loginOf('pip')).toBeNull();
    expect((await get(await plain.attach(PIP, () => false), path)).status).toBe(200);
  });

  it('full disk of the host: the file is refused with the reason, and served once there is room', async () => {
    const wheel = wheelOf('demo', '1.0', 'hello');
    let free = 1000;
    await using small = await openPackageWorld(undefined, { freeBytes: async () => free });
    small.index.add(wheel);
    const port = await small.attach(PIP);
    const path = `/pypi/files/${wheel.sha256}/${wheel.filename}`;
    await page(port, 'demo');
    const answer = await get(port, path);
    expect([answer.status, answer.phrase]).toEqual([403, `${HOST_DISK_FULL}: free space there.`]);
    expect(small.fetches.at(-1)).toMatchObject({ outcome: 'disk_full' });
    expect(await readdir(join(small.dir, 'packages'))).toEqual([]);
    free = 1e9;
    expect((await get(port, path)).body.equals(wheel.bytes)).toBe(true);
  });

  it('cache: a second sandbox gets page and file without a request to the index', async () => {
    const wheel = wheelOf('demo', '1.0', 'hello');
    index.add(wheel);
    const [first, second] = [await attach(), await attach()];
    const path = `/pypi/files/${wheel.sha256}/${wheel.filename}`;
    await get(first, path);
    const before = index.seen.length;
    const answer = await get(second, path);
    expect(answer.body.equals(wheel.bytes)).toBe(true);
    expect(index.seen.length).toBe(before);
    expect(fetches.at(-1)).toMatchObject({ cached: true, outcome: 'ok' });
  });

  it('coalescing: twenty concurrent readers cause one download', async () => {
    const wheel = fileOf('big-1.0-py3-none-any.whl', Buffer.alloc(3 << 20, 7));
    index.add(wheel);
    const port = await attach();
    const path = `/pypi/files/${wheel.sha256}/${wheel.filename}`;
    const answers = await Promise.all(Array.from({ length: 20 }, () => get(port, path)));
    expect(answers.every(({ body }) => body.equals(wheel.bytes))).toBe(true);
    expect(index.seen.map(({ target }) => target)).toEqual(['/simple/big/', `/files/${wheel.filename}`]);
  });

  it('streaming: the first byte arrives before the index has sent the last', async () => {
    const wheel = fileOf('slow-1.0-py3-none-any.whl', Buffer.alloc(100_000, 1));
    index.add(wheel);
    const held = Promise.withResolvers<void>();
    index.answer(`/files/${wheel.filename}`, (_request, response) => {
      response.setHeader('content-length', wheel.bytes.length);
      response.write(wheel.bytes.subarray(0, 50_000));
      void held.promise.then(() => response.end(wheel.bytes.subarray(50_000)));
    });
    const port = await attach();
    const path = `/pypi/files/${wheel.sha256}/${wheel.filename}`;
    const received = await new Promise<IncomingMessage>((resolve) => {
      httpRequest({ socketPath: port, path, agent: false }, resolve).end();
    });
    const chunks: Buffer[] = [];
    for await (const chunk of received) {
      chunks.push(chunk as Buffer);
      held.resolve();
    }
    expect(Buffer.concat(chunks).equals(wheel.bytes)).toBe(true);
  });

  it('digest: a file that differs is cut before its last byte, and nothing of it is cached', async () => {
    const wheel = fileOf('evil-1.0-py3-none-any.whl', Buffer.alloc(200_000, 2));
    index.add(wheel);
    index.answer(`/files/${wheel.filename}`, (_request, response) => {
      response.end(Buffer.alloc(200_000, 3));
    });
    const port = await attach();
    const path = `/pypi/files/${wheel.sha256}/${wheel.filename}`;
    const answer = await get(port, path);
    expect([answer.isCut, answer.body.length < 200_000]).toEqual([true, true]);
    expect(fetches.at(-1)?.outcome).toBe('digest_mismatch');
    expect(await readdir(join(dir, 'packages'))).toEqual([]);
  });

  it('index that breaks off: the answer is cut, never ended', async () => {
    const wheel = fileOf('half-1.0-py3-none-any.whl', Buffer.alloc(200_000, 2));
    index.add(wheel);
    index.answer(`/files/${wheel.filename}`, (_request, response) => {
      response.writeHead(200, { 'content-length': wheel.bytes.length });
      response.write(wheel.bytes.subarray(0, 1000), () => response.destroy());
    });
    const port = await attach();
    const answer = await get(port, `/pypi/files/${wheel.sha256}/${wheel.filename}`);
    expect(answer.isCut).toBe(true);
    expect(fetches.at(-1)?.outcome).toBe('cut');
  });

  it('ranges: the parts are the file’s, from the cache and during the download', async () => {
    const bytes = Buffer.from(Array.from({ length: 100_000 }, (_, at) => at & 255));
    const wheel = fileOf('part-1.0-py3-none-any.whl', bytes);
    index.add(wheel);
    const port = await attach();
    const path = `/pypi/files/${wheel.sha256}/${wheel.filename}`;
    for (const [range, from, to] of [
      ['bytes=10-19', 10, 20],
      ['bytes=-16', 99_984, 100_000],
      ['bytes=99990-', 99_990, 100_000],
    ] as const) {
      const answer = await get(port, path, { range });
      expect([answer.status, answer.headers['content-range']]).toEqual([206, `bytes ${from}-${to - 1}/100000`]);
      expect(answer.body.equals(bytes.subarray(from, to))).toBe(true);
    }
    expect((await get(port, path, { range: 'bytes=100000-' })).status).toBe(416);
    const head = await get(port, path, {}, 'HEAD');
    expect([head.status, head.headers['content-length'], head.body.length]).toEqual([200, '100000', 0]);
  });

  it('policy: without packages, pip sees the reason as a version, and the file is refused with the remedy', async () => {
    index.add(wheelOf('demo', '1.0', 'hello'));
    const port = await attach(null);
    const shown = await get(port, '/pypi/simple/demo/');
    // Otherwise pip would not see for a minute that the policy has changed.
    expect(shown.headers['cache-control']).toBe('no-cache');
    const { files } = await page(port, 'demo');
    expect(files.map(({ filename }) => filename)).toEqual(['demo-0+packages.off-py3-none-any.whl']);
    const answer = await get(port, pathOf('demo', files[0]?.url ?? ''));
    expect([answer.status, answer.phrase]).toEqual([
      403,
      'This sandbox may not fetch pip packages: create it with --packages pip.',
    ]);
    expect(index.seen).toEqual([]);
  });

  it('policy: denied names and names that are not allowed never reach the index', async () => {
    index.add(wheelOf('demo', '1.0', 'hello'));
    const port = await attach({ ...PIP, allow: ['demo', 'pip:other*'], deny: ['other-bad'] });
    expect((await page(port, 'demo')).files).toHaveLength(1);
    for (const [name, code] of [
      ['numpy', 'not.allowed'],
      ['Other_Bad', 'denied'],
    ] as const) {
      const { files } = await page(port, name);
      expect(files.map(({ filename }) => filename)).toEqual([expect.stringContaining(`-0+${code}-py3`)]);
    }
    expect(index.seen.map(({ target }) => target)).toEqual(['/simple/demo/']);
  });

  it('policy: versions younger than the minimum age are not on the page, and their files are refused', async () => {
    const old = wheelOf('demo', '1.0', 'old');
    const young = { ...wheelOf('demo', '2.0', 'young'), uploadTime: new Date().toISOString() };
    index.add(old);
    index.add(young);
    const port = await attach({ ...PIP, minAgeMs: 7 * 86_400_000 });
    const { files } = await page(port, 'demo');
    expect(files.map(({ filename }) => filename)).toEqual([old.filename]);
    const answer = await get(port, `/pypi/files/${young.sha256}/${young.filename}`);
    expect([answer.status, answer.phrase]).toEqual([
      403,
      'This version of demo is younger than --packages-min-age of this sandbox.',
    ]);
  });

  it('lock: only the locked file exists', async () => {
    const one = wheelOf('demo', '1.0', 'one');
    const two = wheelOf('demo', '2.0', 'two');
    index.add(one);
    index.add(two);
    const port = await attach({ ...PIP, lock: [`pip:demo sha256:${one.sha256}`] });
    const { files } = await page(port, 'demo');
    expect(files.map(({ filename }) => filename)).toEqual([one.filename]);
    const answer = await get(port, `/pypi/files/${two.sha256}/${two.filename}`);
    expect([answer.status, answer.headers['content-type']]).toEqual([403, 'application/json']);
    await page(port, 'requests');
    expect(index.seen.filter(({ target }) => target.includes('requests'))).toEqual([]);
  });

  it('links: a page, or a redirect, that points to a private address gets nothing', async () => {
    const metadata = 'http://169.254.169.254/latest/meta-data/iam-1.0-py3-none-any.whl';
    const wheel = wheelOf('iam', '1.0', 'x');
    index.add(wheel, (entry) => {
      entry['url'] = metadata;
    });
    const other = wheelOf('other', '1.0', 'x');
    index.add(other);
    index.answer(`/files/${other.filename}`, (_request, response) => {
      response.writeHead(302, { location: 'http://[::1]:1/x' });
      response.end();
    });
    const port = await attach();
    for (const file of [wheel, other]) {
      const answer = await get(port, `/pypi/files/${file.sha256}/${file.filename}`);
      expect(answer.status).toBe(403);
      expect(answer.body.toString()).not.toMatch(/169|::1/);
    }
  });

  it('requests: everything but packages is refused, and the index sees none of it', async () => {
    const port = await attach();
    for (const [path, status] of [
      ['/pypi/simple/demo/?x=secret', 400],
      ['/pypi/simple/../../etc/passwd', 400],
      ['/pypi/simple/%2e%2e/', 400],
      ['/pypi/simple/a%2fb/', 400],
      ['/pypi/simple/a%00b/', 400],
      ['/pypi/simple//', 400],
      ['/pypi/simple/a b/'.replace(' ', '%20'), 400],
      ['/pypi/simple/', 404],
      ['/', 404],
      ['/constructor/x', 404],
      ['http://169.254.169.254/latest', 403],
      ['//evil.example/simple/x/', 400],
    ] as const) {
      expect([path, (await get(port, path)).status]).toEqual([path, status]);
    }
    for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS', 'PROPFIND']) {
      expect((await get(port, '/pypi/simple/demo/', {}, method)).status).toBe(405);
    }
    expect(index.seen).toEqual([]);
  });
});
