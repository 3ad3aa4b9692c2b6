/**
 * The cases of the egress suite for another endpoint, each with the arrival at the canary that would show a leak.
 * Pure.
 */

import { forgedRequests, get, METADATA_SPELLINGS } from '../../prove/forged-requests.ts';
import { METADATA_ADDRESSES } from '../../prove/map.ts';
import { DNS_TYPE } from '../../src/egress/net/dns/message.ts';
import type { CanaryArrival } from './arrivals.ts';
import { CANARY_LABELS, runName } from './canary-zone.ts';
import type { Case } from './case.ts';
import { metadataCases, metadataGet, privateCases } from './cases-metadata.ts';
import type { Probe } from './probe.ts';

export interface Target {
  /** See `RUN_ID`. */
  readonly run: string;
  readonly address: string;
  readonly zone: string;
}

/** Returns a new mark for each try, which identifies its arrivals. */
export type Tracer = () => string;

export function tracer(run: string): Tracer {
  let count = 0;
  return () => {
    count += 1;
    return `${run}x${String(count).padStart(4, '0')}`;
  };
}

export const nameOf = (target: Target, label: keyof typeof CANARY_LABELS): string =>
  runName(CANARY_LABELS[label], target.run, target.zone);

/** The policy under test allows TCP 80 and 443 of these names, nothing else. */
export function allowedNames(target: Target): readonly string[] {
  const labels = ['allowed', 'elsewhere', 'rebind', 'private', 'flip'] as const;
  return labels.map((label) => nameOf(target, label));
}

/** The cases of a sandbox that may reach `allowedNames`. */
export function confinedCases(target: Target, next: Tracer): readonly Case[] {
  return [
    ...questions(target, next),
    ...requests(target, next),
    ...hellos(target, next),
    ...smuggled(target, next),
    ...echoes(target, next),
    ...otherPorts(target, next),
    ...rebinding(target, next),
    ...metadataCases(),
    ...metadataRequests(target, next),
    ...privateCases(),
  ];
}

/** The cases of a sandbox that may reach nothing. @param who the prefix of each row */
export function closedCases(target: Target, next: Tracer, who: string): readonly Case[] {
  const { address } = target;
  const allowed = nameOf(target, 'allowed');
  const [http, tls, literal, udp, own] = [next(), next(), next(), next(), next()];
  const other = nameOf(target, 'other');
  const byCanary = (what: string, probe: Probe, trace: string): Case => ({
    what: `${who}: ${what}`,
    probe,
    judged: { by: 'canary', isArrival: includes(trace) },
  });
  return [
    byCanary('HTTP', { kind: 'tcp', host: address, port: 80, text: get(allowed, `/${http}`) }, http),
    byCanary('TLS', { kind: 'tls', host: address, port: 443, servername: `${tls}.${other}`, text: '' }, tls),
    byCanary('another port', { kind: 'tcp', host: address, port: 8080, text: get(address, `/${literal}`) }, literal),
    byCanary(
      'DNS of another resolver',
      { kind: 'dns', server: address, name: `${udp}.${other}`, type: DNS_TYPE.A, transport: 'udp' },
      udp,
    ),
    {
      what: `${who}: a name`,
      probe: { kind: 'name', name: `${own}.${other}` },
      judged: { by: 'question', isArrival: isQuestion(own) },
    },
  ];
}

function questions(target: Target, next: Tracer): Case[] {
  const other = nameOf(target, 'other');
  const ask = (what: string, more: Partial<Extract<Probe, { kind: 'dns' }>> = {}, data = ''): Case => {
    const trace = next();
    const name = `${trace}${data}.${other}`;
    return {
      what,
      probe: { kind: 'dns', name, type: DNS_TYPE.A, transport: 'udp', ...more },
      judged: { by: 'question', isArrival: isQuestion(trace) },
    };
  };
  const server = target.address;
  const elsewhere = (what: string, transport: 'udp' | 'tcp' | 'tls'): Case => {
    const made = ask(what, { server, transport });
    const isArrival = made.judged.by === 'question' ? made.judged.isArrival : () => true;
    return { ...made, judged: { by: 'canary', isArrival } };
  };
  const program = next();
  const https = next();
  return [
    ask('a name that no rule allows'),
    ask('the same by TCP', { transport: 'tcp' }),
    {
      what: 'the same, as programs ask',
      probe: { kind: 'name', name: `${program}.${other}` },
      judged: { by: 'question', isArrival: isQuestion(program) },
    },
    ask('a name that carries data in long labels', {}, `.${'d'.repeat(63)}.${'e'.repeat(50)}`),
    ask('a TXT record of such a name', { type: 16 }),
    elsewhere('such a name, of another resolver by UDP', 'udp'),
    elsewhere('such a name, of another resolver by TCP', 'tcp'),
    elsewhere('DNS over TLS', 'tls'),
    {
      what: 'DNS over HTTPS',
      probe: {
        kind: 'tls',
        host: server,
        port: 443,
        servername: `${https}.${other}`,
        text: get(other, `/dns-query?dns=${https}`),
      },
      judged: { by: 'canary', isArrival: includes(https) },
    },
  ];
}

function requests(target: Target, next: Tracer): Case[] {
  const allowed = nameOf(target, 'allowed');
  const other = { name: nameOf(target, 'other'), address: target.address };
  const forged = forgedRequests({ allowed, other, forged: nameOf(target, 'elsewhere'), trace: next });
  const second = next();
  const first = `GET / HTTP/1.1\r\nHost: ${allowed}\r\n\r\n`;
  const redirected = next();
  return [
    ...forged.map(({ what, to, text, trace }): Case => {
      const host = to === 'allowed' ? allowed : target.address;
      return http(what, { host, text, trace, allowed });
    }),
    http('a second request on the connection, with another Host', {
      host: allowed,
      text: first + get(other.name, `/${second}`),
      trace: second,
      allowed,
    }),
    {
      what: 'a redirect to a name that no rule allows',
      probe: { kind: 'url', url: `http://${allowed}/to-other/${redirected}` },
      judged: { by: 'canary', isArrival: includes(` /${redirected}`) },
    },
  ];
}

function hellos(target: Target, next: Tracer): Case[] {
  const { address } = target;
  const [allowed, other, elsewhere] = (['allowed', 'other', 'elsewhere'] as const).map((label) =>
    nameOf(target, label),
  ) as [string, string, string];
  const [named, forged, none, plain, fronted] = [next(), next(), next(), next(), next()];
  const tls = (what: string, host: string, servername: string | undefined, trace: string): Case => ({
    what,
    probe: {
      kind: 'tls',
      host,
      port: 443,
      text: get(servername ?? address, `/${trace}`),
      ...(servername === undefined ? {} : { servername }),
    },
    judged: {
      by: 'canary',
      isArrival: ({ protocol, text }) => text.includes(trace) || (protocol === 'tls' && text === elsewhere),
    },
  });
  return [
    tls('SNI is another name', allowed, `${named}.${other}`, named),
    tls('SNI is forged', address, elsewhere, forged),
    tls('no SNI', address, undefined, none),
    {
      what: 'no TLS on port 443',
      probe: { kind: 'tcp', host: address, port: 443, text: `SSH-2.0-${plain}\r\n` },
      judged: { by: 'canary', isArrival: includes(plain) },
    },
    {
      what: 'limit: Host in the TLS of an allowed name is another (fronting)',
      probe: { kind: 'tls', host: allowed, port: 443, servername: allowed, text: get(other, `/${fronted}`) },
      judged: { by: 'limit', trace: fronted },
    },
  ];
}

/** Requests with an ambiguous length: a proxy may read one where the server behind it reads two. */
function smuggled(target: Target, next: Tracer): Case[] {
  const allowed = nameOf(target, 'allowed');
  const other = nameOf(target, 'other');
  const smuggle = (what: string, make: (inner: string) => string): Case => {
    const trace = next();
    const inner = `GET /${trace} HTTP/1.1\r\nHost: ${other}\r\n\r\n`;
    return http(`smuggling: ${what}`, { host: allowed, text: make(inner), trace, allowed });
  };
  const post = (fields: readonly string[], body: string): string =>
    `${['POST / HTTP/1.1', `Host: ${allowed}`, ...fields].join('\r\n')}\r\n\r\n${body}`;
  const chunk = (inner: string): string => `${inner.length.toString(16)}\r\n${inner}\r\n0\r\n\r\n`;
  const CHUNKED = 'Transfer-Encoding: chunked';
  return [
    smuggle('CL.TE', (inner) => post([`Content-Length: ${inner.length + 5}`, CHUNKED], `0\r\n\r\n${inner}`)),
    smuggle('TE.CL', (inner) => post(['Content-Length: 4', CHUNKED], chunk(inner))),
    smuggle('two lengths', (inner) => post(['Content-Length: 0', `Content-Length: ${inner.length}`], inner)),
    smuggle('an unknown coding', (inner) => post(['Content-Length: 4', 'Transfer-Encoding: xchunked'], chunk(inner))),
    smuggle('a space before the colon', (inner) =>
      post(['Content-Length: 4', 'Transfer-Encoding : chunked'], chunk(inner)),
    ),
    smuggle('a Host behind a bare line feed', (inner) => inner.replace('\r\n', `\r\nHost: ${allowed}\r\nX: y\n`)),
  ];
}

function echoes(target: Target, next: Tracer): Case[] {
  const allowed = nameOf(target, 'allowed');
  const echo = (method: string, path: string): Case => {
    const trace = next();
    const fields = [`Host: ${allowed}`, `X-Trace: ${trace}`, 'Connection: close'];
    return {
      what: `${method} ${path}: what is added on the way`,
      probe: {
        kind: 'tcp',
        host: allowed,
        port: 80,
        text: `${[`${method} ${path} HTTP/1.1`, ...fields].join('\r\n')}\r\n\r\n`,
      },
      judged: { by: 'fields', trace, sent: ['host', 'x-trace', 'connection'] },
    };
  };
  return [echo('TRACE', '/'), echo('OPTIONS', '*'), echo('GET', '/')];
}

function otherPorts(target: Target, next: Tracer): Case[] {
  const { address } = target;
  const allowed = nameOf(target, 'allowed');
  const to = (what: string, make: (trace: string) => Probe): Case => {
    const trace = next();
    return { what, probe: make(trace), judged: { by: 'canary', isArrival: includes(trace) } };
  };
  const tcp = (host: string) => (trace: string) =>
    ({ kind: 'tcp', host, port: 8080, text: get(`${host}:8080`, `/${trace}`) }) as const;
  const udp = (port: number) => (trace: string) => ({ kind: 'udp', host: address, port, text: trace }) as const;
  return [
    to('another port of an allowed name', tcp(allowed)),
    to('another port of an address', tcp(address)),
    to('UDP port 443 (QUIC)', udp(443)),
    to('UDP port 9999', udp(9999)),
  ];
}

function rebinding(target: Target, next: Tracer): Case[] {
  const names = [
    ['rebind', `an allowed name that leads to ${METADATA_ADDRESSES[0]}`],
    ['private', 'an allowed name that leads to a private address'],
    ['flip', `an allowed name that leads to ${METADATA_ADDRESSES[0]} from the second time on`],
  ] as const;
  const followed = next();
  return [
    ...names.map(([label, what]): Case => {
      const host = nameOf(target, label);
      return {
        what,
        probe: { kind: 'tcp', host, port: 80, text: metadataGet(host) },
        judged: { by: 'answer-of-zone' },
      };
    }),
    {
      what: `a redirect to ${METADATA_ADDRESSES[0]}`,
      probe: { kind: 'url', url: `http://${nameOf(target, 'allowed')}/to-metadata/${followed}` },
      judged: { by: 'answer' },
    },
  ];
}

function metadataRequests(target: Target, next: Tracer): Case[] {
  const allowed = nameOf(target, 'allowed');
  const [first] = METADATA_ADDRESSES;
  const meant = [first, `[::ffff:${first}]`, 'metadata.google.internal', METADATA_SPELLINGS[0]];
  const absolute = next();
  return [
    ...meant.map((host) => {
      const trace = next();
      const text = get(host, `/${trace}`);
      return http(`metadata: Host: ${host}`, { host: allowed, text, trace, allowed });
    }),
    http('metadata: absolute-form', {
      host: allowed,
      text: get(allowed, `http://${first}/${absolute}`),
      trace: absolute,
      allowed,
    }),
  ];
}

interface HttpTry {
  readonly host: string;
  readonly text: string;
  readonly trace: string;
  readonly allowed: string;
}

function http(what: string, { host, text, trace, allowed }: HttpTry): Case {
  return {
    what,
    probe: { kind: 'tcp', host, port: 80, text },
    judged: { by: 'canary', isArrival: (arrival) => isMisleading(arrival.text, trace, allowed) },
  };
}

/** Whether an arrival is not plainly for the allowed name; a request rewritten to that name alone may arrive. */
function isMisleading(text: string, trace: string, allowed: string): boolean {
  if (!text.includes(trace)) return false;
  const hosts = [...text.matchAll(/^host *:[ \t]*(.*?)\r?$/gim)].map((match) => match[1]);
  const isPlain = hosts.length === 1 && hosts[0] === allowed;
  return !isPlain || !/^\S+ \/\S* HTTP\/1\.[01]\r$/m.test(text.split('\n', 1)[0] ?? '');
}

const includes =
  (trace: string) =>
  ({ text }: CanaryArrival): boolean =>
    text.includes(trace);

const isQuestion =
  (trace: string) =>
  ({ text }: CanaryArrival): boolean =>
    text.toLowerCase().includes(trace);
