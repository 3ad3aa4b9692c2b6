/**
 * Pages of package indexes: whatever an index sends, the page for a guest has links of the gateway alone, every file in it
 * can be found by its link and has a digest, and the page reads as one again.
 */
import fc from 'fast-check';
import { PackageError } from '../../src/egress/packages/errors.ts';
import type { Catalog, RawPage } from '../../src/egress/packages/protocol/artifact.ts';
import { cargoRoute, parseCargoIndex } from '../../src/egress/packages/protocol/cargo.ts';
import { npmRoute, parsePackument } from '../../src/egress/packages/protocol/npm.ts';
import { parsePypiPage, pypiRoute } from '../../src/egress/packages/protocol/pypi.ts';
import { must, structured } from './target.ts';

const SHA256 = 'a'.repeat(64);
const INTEGRITY = `sha512-${Buffer.alloc(64, 1).toString('base64')}`;
const JSON_TYPE = 'application/vnd.pypi.simple.v1+json';
const ORIGIN = 'http://127.0.0.1:11435';
const FOREIGN = 'https://evil.example';

const odd = fc.oneof(
  fc.constantFrom<unknown>(
    null,
    true,
    0,
    -1,
    '',
    '..',
    '../x',
    '/x',
    '"><script>',
    "'",
    '&',
    '\n',
    '\0',
    'x',
    'X',
    '1.0',
    SHA256,
    INTEGRITY,
    FOREIGN,
    `${FOREIGN}/x-1.0.tar.gz`,
    'javascript:x',
    'http://169.254.169.254/',
    '__proto__',
    'x-1.0.tar.gz',
    'x-1.0-py3-none-any.whl',
    [],
    {},
    ['x'],
    { sha256: SHA256 },
    { x: '^1' },
  ),
  fc.string({ maxLength: 8 }),
);
/** Mostly `usual`. */
const or = (usual: unknown) => fc.oneof({ weight: 4, arbitrary: fc.constant(usual) }, odd);

const pypiFile = fc.record({
  filename: or('x-1.0-py3-none-any.whl'),
  url: or(`${FOREIGN}/x-1.0-py3-none-any.whl`),
  hashes: or({ sha256: SHA256 }),
  'requires-python': or('>=3'),
  yanked: or(false),
  'upload-time': or('2020-01-01T00:00:00Z'),
  size: or(5),
  'core-metadata': or({ sha256: SHA256 }),
  extra: or(FOREIGN),
});
const anchor = fc
  .record({ href: or(`${FOREIGN}/x-1.0.tar.gz#sha256=${SHA256}`), python: or('>=3'), text: or('x') })
  .map(
    ({ href, python, text }) =>
      `<a href="${String(href)}" data-requires-python='${String(python)}' data-yanked>${String(text)}</a>`,
  );
const npmVersion = fc.record({
  dist: or({ tarball: `${FOREIGN}/x.tgz`, integrity: INTEGRITY }),
  dependencies: or({ a: '^1' }),
  scripts: or({ install: 'x' }),
  bin: or('x.js'),
  os: or(['linux']),
  readme: or(FOREIGN),
});
const crate = fc.record({
  name: or('x'),
  vers: or('1.0.0'),
  deps: or([{ name: 'a', req: '^1' }]),
  cksum: or(SHA256),
  features: or({}),
  yanked: or(false),
  pubtime: or('2020-01-01T00:00:00Z'),
  extra: or(FOREIGN),
});

const page = fc.oneof(
  fc.record({
    kind: fc.constant('json' as const),
    body: fc.array(pypiFile, { maxLength: 4 }).map((files) => JSON.stringify({ files })),
  }),
  fc.record({
    kind: fc.constant('html' as const),
    body: fc.array(anchor, { maxLength: 4 }).map((anchors) => anchors.join('')),
  }),
  fc.record({
    kind: fc.constant('npm' as const),
    body: fc
      .record({
        versions: fc.dictionary(fc.constantFrom('1.0.0', '2.0.0-a', '__proto__', '../1'), npmVersion),
        time: or({ '1.0.0': '2020-01-01T00:00:00Z' }),
        'dist-tags': or({ latest: '1.0.0' }),
      })
      .map((packument) => JSON.stringify(packument)),
  }),
  fc.record({
    kind: fc.constant('cargo' as const),
    body: fc.array(crate, { maxLength: 4 }).map((lines) => lines.map((line) => JSON.stringify(line)).join('\n')),
  }),
);
/** A cut, or a changed character. */
const damage = fc.option(fc.nat(2000), { freq: 6, nil: null });

type Kind = 'json' | 'html' | 'npm' | 'cargo';

function parse(kind: Kind, raw: RawPage): Catalog | undefined {
  try {
    if (kind === 'npm') return parsePackument('x', raw);
    if (kind === 'cargo') return parseCargoIndex('x', raw, `${FOREIGN}/dl`);
    return parsePypiPage('x', raw);
  } catch (error) {
    if (error instanceof PackageError && error.code === 'upstream_invalid') return undefined;
    throw error;
  }
}

/** Keys of the files that the links of a page lead to. */
function linksOf(kind: Kind, text: string): string[] {
  if (kind === 'json') {
    const { files } = JSON.parse(text) as { files: { url: string }[] };
    return files.map(({ url }) => keyOf(pypiRoute(pathOf(url, 'pypi'))));
  }
  if (kind === 'html') {
    return [...text.matchAll(/<a href="([^"]*)"/g)].map(([, url = '']) => keyOf(pypiRoute(pathOf(url, 'pypi'))));
  }
  if (kind === 'npm') {
    const { versions } = JSON.parse(text) as { versions: Record<string, { dist: { tarball: string } }> };
    return Object.values(versions).map(({ dist }) => keyOf(npmRoute(pathOf(dist.tarball, 'npm'))));
  }
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const { name, vers, cksum } = JSON.parse(line) as Record<string, string>;
      return keyOf(cargoRoute(['dl', name ?? '', vers ?? '', cksum ?? '']));
    });
}

function pathOf(url: string, room: string): string[] {
  const resolved = new URL(url, `${ORIGIN}/pypi/simple/x/`);
  must(resolved.origin === ORIGIN, `a link leads to ${resolved.origin}`);
  const [first, ...rest] = decodeURIComponent(resolved.pathname).slice(1).split('/');
  must(first === room, `a link leads to /${first}`);
  return rest;
}

function keyOf(route: ReturnType<typeof pypiRoute>): string {
  must(route?.kind === 'artifact', 'a link that is no file');
  return route.key;
}

export const packagePages = structured(
  'package-pages',
  fc.record({ page, damage }),
  ({ page: { kind, body }, damage: at }) => {
    const text = at === null ? body : body.slice(0, at);
    const contentType = kind === 'html' ? 'text/html' : JSON_TYPE;
    const url = `${FOREIGN}/simple/x/`;
    const catalog = parse(kind, { url, contentType, body: Buffer.from(text) });
    if (catalog === undefined) return;
    const accept = kind === 'html' ? 'text/html' : JSON_TYPE;
    const shown = catalog.render(() => true, accept, ORIGIN).body.toString();
    if (kind === 'json') must(!shown.includes('"extra"'), 'an unknown field passed');
    for (const key of linksOf(kind, shown)) {
      const file = catalog.find(key);
      must(file !== undefined, `the file of ${key} is not found`);
      must(file.name === 'x', 'a file of another name');
      must(file.digests.length > 0, 'a file without a digest');
      must(URL.canParse(file.url), 'a file without a URL');
    }
    const none = catalog.render(() => false, accept, ORIGIN).body.toString();
    must(linksOf(kind, none).length === 0, 'a file that is not permitted');
    const again = parse(kind, { url, contentType, body: Buffer.from(shown) });
    must(again !== undefined, 'what was written does not read as a page');
  },
);
