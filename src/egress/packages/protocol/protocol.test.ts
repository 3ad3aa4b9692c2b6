import { describe, expect, it } from 'vitest';
import { NO_PACKAGES } from '../../../base/request/package-policy.ts';
import { PackageRules, permitsFile } from '../policy.ts';
import { aptRoute } from './apt.ts';
import type { Catalog, RawPage } from './artifact.ts';
import { cargoPage, cargoRoute, parseCargoIndex } from './cargo.ts';
import { goRoute, isCovered, timeOfInfo } from './go.ts';
import { newestOf, npmRoute, parsePackument } from './npm.ts';
import { nameOfFile, parsePypiPage, pypiRoute, refusalPage } from './pypi.ts';

const SHA256 = 'a'.repeat(64);
const JSON_TYPE = 'application/vnd.pypi.simple.v1+json';
const ORIGIN = 'http://127.0.0.1:11435';
const split = (path: string): string[] => path.split('/');

const raw = (body: unknown, contentType = 'application/json', url = 'https://i.example/s/x/') =>
  ({ url, contentType, body: Buffer.from(typeof body === 'string' ? body : JSON.stringify(body)) }) satisfies RawPage;

function shown(catalog: Catalog, accept = ''): string {
  return catalog.render(() => true, accept, ORIGIN).body.toString();
}

describe('pypiRoute', () => {
  it.each([
    ['simple/Some_Name.x/', { kind: 'catalog', name: 'some-name-x' }],
    [`files/${SHA256}/Some_Name-1.0-py3-none-any.whl`, { kind: 'artifact', name: 'some-name' }],
    [`files/${SHA256}/a-b-1.0.tar.gz`, { kind: 'artifact', name: 'a-b' }],
    [`files/${SHA256}/a-1.0-py3-none-any.whl.metadata`, { kind: 'artifact', name: 'a' }],
  ])('%s', (path, wanted) => {
    expect(pypiRoute(split(path))).toMatchObject(wanted);
  });

  it.each([
    'simple/',
    'simple/-a/',
    'simple/a/b/',
    `simple/${'a'.repeat(129)}/`,
    `files/${SHA256}/a.whl`,
    `files/${SHA256}/a-1.0.exe`,
    `files/${SHA256.toUpperCase()}/a-1.0.tar.gz`,
    `files/${'a'.repeat(63)}/a-1.0.tar.gz`,
    'pypi/a/json',
  ])('refuses %s', (path) => {
    expect(pypiRoute(split(path))).toBeUndefined();
  });
});

describe('nameOfFile', () => {
  it.each([
    ['numpy-2.4.6-cp311-cp311-manylinux_2_17_x86_64.whl', 'numpy'],
    ['zope.interface-7.0.tar.gz', 'zope-interface'],
    ['python-dateutil-2.9.0.post0.tar.gz', 'python-dateutil'],
    ['a2-b3-1.0b1.zip', 'a2-b3'],
    ['pytest-vcr-1.0.2.tar.gz', 'pytest-vcr'],
    ['python-3parclient-4.2.13.tar.gz', 'python-3parclient'],
    ['zc-2-x-1.0rc1.dev3.tar.gz', 'zc-2-x'],
    ['old-v1.2.tar.gz', 'old'],
    ['old-1.0-1.tar.gz', 'old'],
    ['old-1.0-beta-2.tar.gz', 'old'],
    ['pytz-2004d.tar.gz', 'pytz'],
    ['local-1.0+cpu.tar.gz', 'local'],
    [`x-1${'rc'.repeat(115)}!.tar.gz`, 'x'],
    ['noversion.tar.gz', undefined],
    [`${'x-'.repeat(30)}1.0.tar.gz`, undefined],
  ])('%s → %s', (filename, name) => {
    expect(nameOfFile(filename)).toBe(name);
  });
});

describe('parsePypiPage', () => {
  const file = {
    filename: 'x-1.0-py3-none-any.whl',
    url: 'https://files.example/x-1.0-py3-none-any.whl#sha256=1',
    hashes: { sha256: SHA256 },
    'requires-python': '>=3.9',
    'upload-time': '2024-01-02T03:04:05Z',
    size: 5,
    'core-metadata': { sha256: 'b'.repeat(64) },
    'gpg-sig': true,
    provenance: 'https://index.example/provenance',
  };
  const page = (...files: object[]) => raw({ files }, `${JSON_TYPE}; charset=utf-8`);

  it('HTML: reads a page of 32 MiB with unclosed tags in one pass', () => {
    const link = `<a href="x-1.0.tar.gz#sha256=${SHA256}">x</a>`;
    const unfinished = '<a '.repeat(11_000_000);
    const read = (body: string) => shown(parsePypiPage('x', raw(body, 'text/html')), JSON_TYPE);
    // Following each start of a tag up to the limit would take minutes.
    expect(JSON.parse(read(`${link}${unfinished}`)).files).toHaveLength(1);
    expect(JSON.parse(read(`<a ${'x'.repeat(9000)}>${link}`)).files).toHaveLength(1);
    expect(JSON.parse(read(`<a <a href="x-1.0.tar.gz#sha256=${SHA256}">`)).files).toHaveLength(1);
  });

  it('writes only known fields, with links to the gateway', () => {
    const body = shown(parsePypiPage('x', page(file)), JSON_TYPE);
    expect(body).not.toMatch(/example|provenance|gpg/);
    expect(JSON.parse(body)).toEqual({
      meta: { 'api-version': '1.1' },
      name: 'x',
      versions: ['1.0'],
      files: [
        {
          filename: file.filename,
          url: `../../files/${SHA256}/${file.filename}`,
          hashes: { sha256: SHA256 },
          'requires-python': '>=3.9',
          'upload-time': file['upload-time'],
          size: 5,
          'core-metadata': { sha256: 'b'.repeat(64) },
        },
      ],
    });
  });

  it('finds a file and its metadata, each with its own digest', () => {
    const catalog = parsePypiPage('x', page(file));
    const wheel = catalog.find(`${SHA256}/${file.filename}`);
    const described = catalog.find(`${SHA256}/${file.filename}.metadata`);
    expect([wheel?.url, wheel?.digests[0]?.hex, wheel?.version]).toEqual([
      'https://files.example/x-1.0-py3-none-any.whl',
      SHA256,
      '1.0',
    ]);
    expect([described?.url, described?.digests[0]?.hex]).toEqual([
      'https://files.example/x-1.0-py3-none-any.whl.metadata',
      'b'.repeat(64),
    ]);
  });

  it('omits files without a SHA-256, of another project, or with an invalid name', () => {
    const odd = [
      { ...file, hashes: { md5: 'x' } },
      { ...file, hashes: { sha256: '../x' } },
      { ...file, filename: 'other-1.0-py3-none-any.whl' },
      { ...file, filename: '../x-1.0-py3-none-any.whl' },
      { ...file, filename: 'x-1.0.exe' },
      { ...file, url: 7 },
      null,
    ] as object[];
    expect(JSON.parse(shown(parsePypiPage('x', page(...odd)), JSON_TYPE))).toMatchObject({ files: [] });
  });

  it('reads HTML, and writes it for clients that want it', () => {
    const html = `<html><body><a href="../../p/x-1.0-py3-none-any.whl#sha256=${SHA256}"
      data-requires-python="&gt;=3.9" data-yanked>x</a><a href="x-2.0.tar.gz">no hash</a></body></html>`;
    const catalog = parsePypiPage('x', raw(html, 'text/html'));
    const { contentType, body } = catalog.render(() => true, 'text/html', ORIGIN);
    expect(contentType).toBe('text/html');
    expect(body).toContain(
      `<a href="../../files/${SHA256}/x-1.0-py3-none-any.whl#sha256=${SHA256}" data-requires-python="&gt;=3.9" data-yanked="">`,
    );
    expect(body).not.toContain('x-2.0');
  });

  it('refuses an invalid page', () => {
    for (const body of ['{', '[]', '{"files":{}}']) {
      expect(() => parsePypiPage('x', raw(body, JSON_TYPE))).toThrow('the index answered');
    }
  });

  it('refusalPage: has one wheel, whose version says why', () => {
    const { body } = refusalPage('a-b', 'not_allowed', JSON_TYPE);
    expect(JSON.parse(body.toString())).toMatchObject({ files: [{ filename: 'a_b-0+not.allowed-py3-none-any.whl' }] });
  });
});

describe('npmRoute', () => {
  it.each([
    ['left-pad', { kind: 'catalog', name: 'left-pad' }],
    ['@types/node', { kind: 'catalog', name: '@types/node' }],
    ['JSONStream', { kind: 'catalog', name: 'JSONStream' }],
    ['left-pad|-|left-pad-1.3.0.tgz', { kind: 'artifact', name: 'left-pad' }],
    ['@types|node|-|node-1.0.0.tgz', { kind: 'artifact', name: '@types/node' }],
    ['@types/node|-|node-1.0.0.tgz', { kind: 'artifact', name: '@types/node' }],
  ])('%s', (path, wanted) => {
    expect(npmRoute(path.split('|'))).toMatchObject(wanted);
  });

  it.each(['', '-', '-|v1|search', 'a|b', 'a|-|b.zip', '@a', '.a', '@a/b|-|', 'x'.repeat(215)])(
    'refuses %s',
    (path) => {
      expect(npmRoute(path.split('|'))).toBeUndefined();
    },
  );
});

describe('parsePackument', () => {
  const integrity = `sha512-${Buffer.alloc(64, 1).toString('base64')}`;
  const version = (more: object = {}) => ({
    name: 'evil',
    dependencies: { a: '^1' },
    scripts: { postinstall: 'node x.js', test: 'secret' },
    readme: 'long',
    _npmUser: { email: 'someone@example.com' },
    dist: { tarball: 'https://r.example/x/-/x-1.0.0.tgz', integrity, signatures: [] },
    ...more,
  });
  const packument = {
    versions: {
      '1.0.0': version(),
      '2.0.0': version({ dist: { tarball: 'https://r.example/y.tgz', shasum: '0'.repeat(40) } }),
      '3.0.0': version({ dist: { tarball: 'https://r.example/z.tgz' } }),
      '../4': version(),
    },
    'dist-tags': { latest: '2.0.0', next: '3.0.0' },
    time: { '1.0.0': '2020-01-01T00:00:00Z', '2.0.0': '2021-01-01T00:00:00Z', modified: 'x' },
  };

  it('a locked digest beside that of another file does not let the other file pass', () => {
    const locked = Buffer.alloc(64, 2);
    const lock = [`npm:x sha512:${locked.toString('hex')}`, `npm:x sha1:${'0'.repeat(40)}`];
    const rules = new PackageRules({ ...NO_PACKAGES, ecosystems: ['npm'], lock });
    const of = (dist: object): boolean => {
      const tarball = 'https://r.example/x.tgz';
      const page = { versions: { '1.0.0': version({ dist: { tarball, ...dist } }) } };
      const file = parsePackument('x', raw(page)).find('x-1.0.0.tgz');
      if (file === undefined) throw new Error('no such file');
      return permitsFile(rules.fileRules('npm', 'x'), 'x', file, 0).ok;
    };
    expect(of({ integrity: `sha512-${locked.toString('base64')}` })).toBe(true);
    expect(of({ shasum: '0'.repeat(40) })).toBe(true);
    expect(of({ integrity: `${integrity} sha512-${locked.toString('base64')}` })).toBe(false);
    expect(of({ integrity, shasum: '0'.repeat(40) })).toBe(false);
  });

  it('writes only what installing needs', () => {
    const body = JSON.parse(shown(parsePackument('x', raw(packument)))) as object;
    expect(JSON.stringify(body)).not.toMatch(/example|readme|secret|postinstall|signatures/);
    expect(body).toEqual({
      name: 'x',
      'dist-tags': { latest: '2.0.0' },
      versions: {
        '1.0.0': {
          name: 'x',
          version: '1.0.0',
          dependencies: { a: '^1' },
          hasInstallScript: true,
          dist: { tarball: `${ORIGIN}/npm/x/-/x-1.0.0.tgz`, integrity },
        },
        '2.0.0': expect.objectContaining({
          dist: { tarball: `${ORIGIN}/npm/x/-/x-2.0.0.tgz`, shasum: '0'.repeat(40) },
        }) as unknown,
      },
      time: { '1.0.0': '2020-01-01T00:00:00Z', '2.0.0': '2021-01-01T00:00:00Z' },
    });
  });

  it('moves latest to the newest permitted version', () => {
    const catalog = parsePackument('x', raw(packument));
    const { body } = catalog.render(({ version: v }) => v === '1.0.0', '', ORIGIN);
    expect(JSON.parse(body.toString())).toMatchObject({ 'dist-tags': { latest: '1.0.0' } });
    expect(catalog.find('x-2.0.0.tgz')?.url).toBe('https://r.example/y.tgz');
    expect(catalog.find('y.tgz')?.version).toBe('2.0.0');
  });

  it('newestOf: prefers releases to prereleases, and compares numbers as numbers', () => {
    expect(newestOf(['1.9.0', '1.10.0', '2.0.0-rc.1'])).toBe('1.10.0');
    expect(newestOf(['2.0.0-a'])).toBe('2.0.0-a');
    expect(newestOf([])).toBeUndefined();
  });
});

describe('cargo', () => {
  it.each([
    ['a', '1/a'],
    ['ab', '2/ab'],
    ['abc', '3/a/abc'],
    ['serde', 'se/rd/serde'],
  ])('cargoPage: %s → %s, which is its only path', (name, path) => {
    expect(cargoPage(name)).toBe(path);
    expect(cargoRoute(['index', ...split(path)])).toMatchObject({ kind: 'catalog', name });
    expect(cargoRoute(['index', 'xx', ...split(path)])).toBeUndefined();
  });

  it.each(['index/se/rd/Serde', 'index/aa/bb/serde', 'dl/serde/1.0.0', `dl/../1.0.0/${SHA256}`])(
    'refuses %s',
    (path) => {
      expect(cargoRoute(split(path))).toBeUndefined();
    },
  );

  it('index: has known fields, and neither other crates nor dependencies in another registry', () => {
    const line = (more: object = {}) =>
      JSON.stringify({
        name: 'Serde',
        vers: '1.0.0',
        deps: [],
        cksum: SHA256,
        features: {},
        yanked: false,
        pubtime: '2020-01-01T00:00:00Z',
        secret: 'x',
        ...more,
      });
    const dep = { name: 'a', req: '^1', registry: 'https://evil.example' };
    const text = [line(), line({ name: 'other' }), line({ deps: [dep] }), '{', ''].join('\n');
    const catalog = parseCargoIndex('serde', raw(text), 'https://c.example/{crate}/{version}');
    expect(shown(catalog).trim().split('\n')).toHaveLength(1);
    expect(shown(catalog)).not.toMatch(/secret|evil/);
    expect(catalog.find(`1.0.0/${SHA256}`)).toMatchObject({
      url: 'https://c.example/Serde/1.0.0',
      publishedMs: Date.parse('2020-01-01T00:00:00Z'),
    });
  });
});

describe('isCovered', () => {
  it.each([
    ['git.corp.example/a/b', ['*.corp.example'], true],
    ['corp.example/a', ['*.corp.example'], false],
    ['github.com/ours/x/y', ['x.example', 'github.com/ours'], true],
    ['github.com/others/x', ['github.com/ours'], false],
    ['github.com/ours-too', ['github.com/ours'], false],
    ['github.com/ours/x', ['github.com/ours/'], true],
    ['github.com/a', ['none'], false],
    ['github.com/a', ['['], false],
  ])('%s by %j: %s', (module, patterns, expected) => {
    expect(isCovered(module, patterns)).toBe(expected);
  });
});

describe('goRoute', () => {
  it.each([
    ['github.com/!burnt!sushi/toml/@v/v1.6.0.zip', 'github.com/BurntSushi/toml', true],
    ['github.com/a/b/@v/list', 'github.com/a/b', false],
    ['github.com/a/b/@v/main.info', 'github.com/a/b', false],
    ['github.com/a/b/@latest', 'github.com/a/b', false],
    ['a.example/b/v2/@v/v2.0.0+incompatible.mod', 'a.example/b/v2', true],
    ['sumdb/sum.golang.org/lookup/github.com/a/b@v1.0.0', 'github.com/a/b', true],
    ['sumdb/sum.golang.org/tile/8/0/x001/234', '', true],
    ['sumdb/sum.golang.org/tile/8/1/000.p/4', '', true],
    ['sumdb/sum.golang.org/latest', '', false],
  ])('%s', (path, name, isImmutable) => {
    expect(goRoute(split(path))).toMatchObject({ kind: 'relay', name, isImmutable });
  });

  it.each([
    'github.com/A/b/@v/list',
    'github.com/.a/@v/list',
    'github.com/a/@v/v1.0.0.exe',
    'github.com/a/@v/../x.info',
    'sumdb/evil.example/latest',
    'sumdb/sum.golang.org/tile/8/0/abc',
    'sumdb/sum.golang.org/lookup/a',
    '@v/list',
  ])('refuses %s', (path) => {
    expect(goRoute(split(path))).toBeUndefined();
  });

  it('timeOfInfo: returns the time, or null', () => {
    expect(timeOfInfo(Buffer.from('{"Time":"2020-01-01T00:00:00Z"}'))).toBe(1_577_836_800_000);
    for (const text of ['', '[]', '{}', '{"Time":5}', '{"Time":"x"}']) {
      expect(timeOfInfo(Buffer.from(text))).toBeNull();
    }
  });
});

describe('aptRoute', () => {
  it.each([
    ['debian/dists/bookworm/InRelease', null, { name: '', isImmutable: false }],
    [
      `debian/dists/bookworm/main/binary-amd64/by-hash/SHA256/${SHA256}`,
      null,
      { isImmutable: true, digest: { algorithm: 'sha256', hex: SHA256 } },
    ],
    [
      'debian/pool/main/h/hello/hello_2.10-3_amd64.deb',
      'deb.debian.org',
      { name: 'hello', version: '2.10-3', isImmutable: true },
    ],
    ['debian-security/dists/bookworm-security/InRelease', 'security.debian.org', { index: 'debian-security' }],
    ['ubuntu/dists/noble/InRelease', null, { index: 'ubuntu' }],
    ['ubuntu/dists/noble-security/InRelease', 'security.ubuntu.com', { index: 'ubuntu' }],
    [
      'ubuntu/pool/main/h/hello/hello_2.10-3build1_amd64.deb',
      'archive.ubuntu.com',
      { index: 'ubuntu', name: 'hello', version: '2.10-3build1', isImmutable: true },
    ],
    ['ubuntu-ports/dists/noble/InRelease', 'ports.ubuntu.com', { index: 'ubuntu-ports' }],
  ] as const)('%s', (path, host, wanted) => {
    expect(aptRoute(split(path), host)).toMatchObject(wanted);
  });

  it.each([
    ['debian/dists', null],
    ['debian/project/x', null],
    ['debian/pool/main/h/hello/hello.txt', null],
    ['ubuntu/dists/jammy/InRelease', 'deb.debian.org'],
    ['ubuntu/dists/jammy/InRelease', 'de.archive.ubuntu.com'],
    ['debian/dists/bookworm/InRelease', 'archive.ubuntu.com'],
    ['mint/dists/x/InRelease', null],
    ['debian/dists/bookworm/InRelease', 'evil.example'],
    ['debian/dists/bookworm/InRelease', 'security.debian.org'],
  ] as const)('refuses %s of %s', (path, host) => {
    expect(aptRoute(split(path), host)).toBeUndefined();
  });
});
