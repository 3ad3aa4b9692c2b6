/**
 * Requests for packages: whatever is asked, a route names only what the grammar of its ecosystem has, and what an index
 * would be asked for can't leave the base of that index.
 */
import fc from 'fast-check';
import { parseRoute } from '../../src/egress/packages/port/route.ts';
import type { Route } from '../../src/egress/packages/protocol/artifact.ts';
import { cargoPage } from '../../src/egress/packages/protocol/cargo.ts';
import { npmPage } from '../../src/egress/packages/protocol/npm.ts';
import { pypiPage } from '../../src/egress/packages/protocol/pypi.ts';
import { must, structured } from './target.ts';

const SHA256 = 'a'.repeat(64);
const piece = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.constantFrom(
      '/pypi/simple/',
      '/pypi/files/',
      '/npm/',
      '/go/',
      '/go/sumdb/sum.golang.org/',
      '/cargo/index/',
      '/cargo/dl/',
      '/apt/debian/',
      'http://deb.debian.org/debian/',
      'http://evil.example/',
      `${SHA256}/`,
      'six/',
      'six-1.0-py3-none-any.whl',
      '.metadata',
      '@types',
      '%2f',
      '/-/',
      'node-1.0.0.tgz',
      'github.com/!a/b',
      '/@v/',
      '@latest',
      'v1.0.0.zip',
      'lookup/',
      'tile/8/0/',
      '001',
      'config.json',
      'se/rd/serde',
      'dists/s/InRelease',
      'pool/main/h/hello/hello_1-1_amd64.deb',
      `by-hash/SHA256/${SHA256}`,
    ),
  },
  {
    weight: 4,
    arbitrary: fc.constantFrom(
      '.',
      '..',
      '/',
      '//',
      '/../',
      '%2e%2e',
      '%2F',
      '%5c',
      '\\',
      '?',
      '?q=1',
      '#',
      '%00',
      '%0d%0a',
      '%25',
      '%252f',
      ' ',
      '@',
      ':',
      '%40',
      'é',
      '%c3%a9',
      '%',
      '\r\n',
    ),
  },
  { weight: 1, arbitrary: fc.string({ maxLength: 6 }) },
);

const BASE = 'https://index.example/base/';

/** Paths below the base of an index that the gateway would ask for. */
function askedPaths(route: Route): string[] {
  switch (route.kind) {
    case 'static':
      return [];
    case 'relay':
      return route.infoPath === null ? [route.path] : [route.path, route.infoPath];
    default: {
      const pages = { pip: pypiPage, npm: npmPage, cargo: cargoPage } as const;
      must(route.index in pages, `${route.index} has no pages`);
      return [pages[route.index as keyof typeof pages](route.name)];
    }
  }
}

export const packageRequests = structured(
  'package-requests',
  fc.record({ pieces: fc.array(piece, { maxLength: 10 }), method: fc.constantFrom('GET', 'GET', 'GET', 'HEAD') }),
  ({ pieces, method }) => {
    const target = pieces.join('');
    const parsed = parseRoute(method, target);
    if (!parsed.ok) {
      must(/^[\x20-\x7e]+$/.test(parsed.refusal.message), 'a refusal that is no phrase');
      return;
    }
    const route = parsed.value;
    must(!/[?#\\\s%]/.test(target.replaceAll(/%[0-9a-f]{2}/gi, '')), 'an odd character passed');
    must(/^[@A-Za-z0-9!+~:._/-]*$/.test(route.name), `an odd name: ${route.name}`);
    for (const path of askedPaths(route)) {
      const url = new URL(`${BASE}${path}`);
      must(url.href.startsWith(BASE), `it leaves the index: ${url.href}`);
      must(url.search === '' && url.hash === '', `it has more than a path: ${url.href}`);
      must(decodeURIComponent(url.href) === `${BASE}${decodeURIComponent(path)}`, 'it is changed');
      must(!/(?:^|\/)\.{1,2}(?:\/|$)/.test(decodeURIComponent(path)), `dots: ${path}`);
    }
  },
);
