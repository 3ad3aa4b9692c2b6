/**
 * Paths of requests, judged by method and path: whatever a server makes of a path that is let through, it stays
 * below the path of the rule. The servers here are naive on purpose, each in ways in which real ones are.
 */
import fc from 'fast-check';
import { parseHead } from '../../src/egress/net/http/head.ts';
import { parsePolicy } from '../../src/egress/net/policy/egress-rules.ts';
import { readPath } from '../../src/egress/net/policy/request-path.ts';
import { decideRequest } from '../../src/egress/net/policy/request-policy.ts';
import { must, structured } from './target.ts';

const RULES = ['/v1/', '/v1/models', '/a-b/c.d/'] as const;
const dot = fc.constantFrom(
  '.',
  '.',
  '.',
  '.',
  '.',
  '.',
  '%2e',
  '%c0%ae',
  '%ef%bc%8e',
  '%252e',
  '%e2%80%8b.',
  '%u002e',
);
const slash = fc.constantFrom('/', '/', '/', '%2f', '%5c', '%c0%af', '%ef%bc%8f', '%252f', '%e2%88%95');
const end = fc.constantFrom('', '', '', ';', '%3b', '%20', '%e2%80%8b', '%00');
const climb = fc.tuple(fc.oneof(fc.constant(''), slash), dot, dot, end, slash).map((parts) => parts.join(''));
const piece = fc.oneof(
  { weight: 5, arbitrary: climb },
  { weight: 5, arbitrary: fc.constantFrom('v1', 'models', 'a-b', 'c.d', 'admin', 'x', '/', '/') },
  {
    weight: 5,
    arbitrary: fc.constantFrom(
      '.',
      '..',
      '...',
      '/./',
      '/../',
      '//',
      ';',
      '..;',
      ';x=1',
      '?',
      '?a=/../',
      '\\',
      '%',
      '%2e',
      '%2E',
      '%2f',
      '%5c',
      '%3b',
      '%25',
      '%252e',
      '%252f',
      '%00',
      '%0a',
      '%20',
      '%09',
      '%c0%ae',
      '%c0%af',
      '%e0%80%ae',
      '%ef%bc%8e',
      '%ef%bc%8f',
      '%e2%80%a5',
      '%e2%80%a6',
      '%e2%80%8b',
      '%c2%ad',
      '%ef%bb%bf',
      '%e2%88%95',
      '%e2%81%84',
      '%c2%a5',
      '%u002e',
      '%7e',
      '%76',
      '%31',
      '%c3%a9',
      '%f0%9f%98%80',
      '+',
      '*',
      ':',
      '@',
      '%3f',
      '%23',
      ' ',
      '\t',
    ),
  },
  { weight: 1, arbitrary: fc.string({ maxLength: 4 }) },
  { weight: 1, arbitrary: fc.nat(255).map((byte) => `%${byte.toString(16).padStart(2, '0')}`) },
);

type Step = (path: string) => string;
const bytesOf = (path: string): Buffer =>
  Buffer.from(
    path.replaceAll(/%([0-9a-f]{2})/gi, (_, code) => String.fromCharCode(Number.parseInt(code, 16))),
    'latin1',
  );
const segments = (path: string, each: (segment: string) => string): string => path.split('/').map(each).join('/');
/** What one server or another does before it looks which file or handler is meant. */
const STEPS: Readonly<Record<string, Step>> = {
  decode: (path) => bytesOf(path).toString('utf8'),
  decodeLatin: (path) => bytesOf(path).toString('latin1'),
  /** As decoders of before RFC 3629. */
  decodeOverlong: (path) =>
    path.replaceAll(/%c0%([89ab][0-9a-f])/gi, (_, code) => String.fromCharCode(Number.parseInt(code, 16) & 0x3f)),
  decodeU: (path) => path.replaceAll(/%u([0-9a-f]{4})/gi, (_, code) => String.fromCharCode(Number.parseInt(code, 16))),
  backslash: (path) => path.replaceAll('\\', '/'),
  collapse: (path) => path.replaceAll(/\/+/g, '/'),
  parameters: (path) => segments(path, (segment) => segment.split(';')[0] ?? ''),
  fold: (path) =>
    path
      .normalize('NFKC')
      .replaceAll(/[\u2044\u2215]/g, '/')
      .replaceAll('\u00a5', '\\'),
  invisible: (path) => path.replaceAll(/\p{Default_Ignorable_Code_Point}/gu, ''),
  controls: (path) => path.replaceAll(/\p{Cc}/gu, ''),
  windows: (path) =>
    segments(path, (segment) => segment.replace(/(?<=.)[. ]+$/, (end) => (/^\.+$/.test(segment) ? end : ''))),
  trim: (path) => segments(path, (segment) => segment.trim()),
  dots: resolve,
};

/** RFC 3986 section 5.2.4; more dots than two go up, too, as they did on Windows. */
function resolve(path: string): string {
  const out: string[] = [];
  for (const segment of path.split('/').slice(1)) {
    if (segment === '.') continue;
    if (/^\.{2,}$/.test(segment)) out.pop();
    else out.push(segment);
  }
  return `/${out.join('/')}`;
}

const order = fc.array(fc.constantFrom(...Object.keys(STEPS)), { minLength: 1, maxLength: 8 });

export const requestPath = structured(
  'request-path',
  fc.record({
    rule: fc.constantFrom(...RULES),
    isBelow: fc.boolean(),
    pieces: fc.array(piece, { maxLength: 8 }),
    order,
  }),
  ({ rule, isBelow, pieces, order: names }) => {
    const path = `${isBelow ? rule : '/'}${pieces.join('')}`;
    const parsed = parseHead([`GET ${path} HTTP/1.1`, 'Host: api.example']);
    if (!parsed.ok) return;
    const allow = [`GET http://api.example${rule}`];
    const verdict = decideRequest(parsePolicy({ mode: 'allowlist', allow }), parsed.head);
    must(verdict.allowed || verdict.reason !== undefined, 'refused without a reason');
    if (!verdict.allowed) return;
    must(parsed.head.path === path, 'it was changed on its way');
    const [asked = ''] = path.split('?');
    const server = (text: string): string => resolve(names.reduce((read, name) => STEPS[name]?.(read) ?? read, text));
    const read = server(asked);
    const bound = rule.replace(/\/$/, '');
    must(read === bound || read.startsWith(`${bound}/`), `a server reads ${JSON.stringify(read)}`);
    const again = readPath(asked);
    must(again.ok && readPath(again.path).ok, 'what is compared is not as good as what was sent');
  },
);
