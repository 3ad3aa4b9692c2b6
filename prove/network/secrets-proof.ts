/**
 * Proves that a guest can use a secret at its one server and in its places of a request, and never gets it, there or
 * anywhere else. The server has other tenants: a value beside the guest's own credential would be stored in the
 * account of that credential.
 */
import { createSecureContext } from 'node:tls';
import { systemClock } from '../../src/base/clock.ts';
import { newPlaceholder, SecretValue } from '../../src/base/request/secret-value.ts';
import { CertificateAuthority } from '../../src/egress/net/secret/authority.ts';
import type { EgressSecrets } from '../../src/egress/net/secret/secret.ts';
import type { CallOutcome } from '../caller.ts';
import { ALLOWED, OTHER, VAULT } from '../map.ts';
import { type Proof, Tries } from '../proof.ts';
import type { Guest, World } from '../world.ts';

const VALUE = 'sk-of-the-proof/0123456789+abcdef';
const KNOWN = newPlaceholder(VALUE.length);
/** Value of a second secret, whose place is the query. */
const QUERY_VALUE = 'key-of-the-proof/9876543210+fedcba';
const QUERY_KNOWN = newPlaceholder(QUERY_VALUE.length);
const KEY = `X-Api-Key: ${KNOWN}`;
const HTTP2 = ['Connection: Upgrade, HTTP2-Settings', 'Upgrade: websocket, h2c', 'HTTP2-Settings: AAMAAABk'];
/** Forms of the value that a line of JSON could echo. */
const TRACES = [VALUE, QUERY_VALUE].flatMap((value) => [value, encodeURIComponent(value), basic(value)]);
const OWN = 'Authorization: Bearer of-the-guest';

interface Setting {
  readonly tries: Tries;
  readonly world: World;
  readonly guest: Guest;
  readonly root: string;
}

export async function proveSecrets(world: World): Promise<Proof> {
  const tries = new Tries(world);
  const authority = new CertificateAuthority(systemClock);
  const ca = await world.internet.ask<string>('root');
  const secrets: EgressSecrets = {
    secrets: [
      { name: 'API_KEY', hosts: [VAULT.name], places: [], placeholder: KNOWN, value: new SecretValue(VALUE) },
      {
        name: 'QUERY_KEY',
        hosts: [VAULT.name],
        places: [{ in: 'query', name: 'key' }],
        placeholder: QUERY_KNOWN,
        value: new SecretValue(QUERY_VALUE),
      },
    ],
    authority,
    roots: () => createSecureContext({ ca }),
  };
  const root = await authority.certificate();
  const allow = [ALLOWED.name];
  const listed = await world.guest({ mode: 'allowlist', allow }, secrets);
  const open = await world.guest({ mode: 'open' }, secrets);
  for (const [how, { guest }] of [
    ['a list', listed],
    ['open', open],
  ] as const) {
    const setting = { tries, world, guest, root };
    await guest.name(VAULT.name);
    await guest.name(ALLOWED.name);
    await controls(setting, how);
    await elsewhere(setting, how);
  }
  const setting = { tries, world, guest: listed.guest, root };
  await echoed(setting);
  await guessed(setting);
  await otherRequests(setting);
  await deposits(setting);
  await untrusted(setting, secrets, listed.lease);
  return tries.proof('secrets');
}

/** Positive controls, without which "nothing arrived" would prove nothing. */
async function controls(setting: Setting, how: string): Promise<void> {
  const { tries } = setting;
  for (const [what, field, sent] of [
    ['a field', KEY, VALUE],
    ['Basic credentials', `Authorization: Basic ${basic(KNOWN)}`, basic(VALUE)],
  ] as const) {
    const { arrived, outcome } = await ask(setting, request({ fields: [field] }));
    const ok = arrived.includes(sent) && isClean(outcome);
    const seen = ok ? 'the server got it, the guest did not' : `${outcome.outcome} ${outcome.text}`;
    tries.note(`control (${how}): in ${what}`, 'the server gets it', seen, ok);
  }
  const { arrived, outcome } = await ask(setting, request({ path: `/?key=${QUERY_KNOWN}` }));
  const ok = arrived.includes(encodeURIComponent(QUERY_VALUE)) && isClean(outcome);
  tries.note(`control (${how}): in the query`, 'the server gets it', ok ? 'it got it' : arrived, ok);
}

/** Destinations other than the secret's server, under any name. */
async function elsewhere(setting: Setting, how: string): Promise<void> {
  const { guest, root } = setting;
  const whole = request({ fields: [KEY] });
  const tries: readonly [string, () => Promise<CallOutcome>][] = [
    ['another server under its name', () => guest.https(OTHER.address, VAULT.name, root, whole)],
    ['its address under another name', () => guest.tls(VAULT.address, ALLOWED.name, whole)],
    ['its address without a name', () => guest.tls(VAULT.address, undefined, whole)],
    ['another host by TLS', () => guest.tls(ALLOWED.address, ALLOWED.name, whole)],
    ['itself by plain HTTP', () => guest.exchange(VAULT.address, 80, whole)],
    [
      'another host by plain HTTP',
      () => guest.exchange(ALLOWED.address, 80, request({ host: ALLOWED.name, fields: [KEY] })),
    ],
    ['HTTP without TLS at port 443', () => guest.exchange(VAULT.address, 443, whole)],
  ];
  for (const [what, attempt] of tries) await nothing(setting, `${what} (${how})`, attempt);
}

async function otherRequests(setting: Setting): Promise<void> {
  const other = request({ host: OTHER.name, fields: [KEY] });
  const tries: readonly [string, string][] = [
    ['Host of another', other],
    ['the absolute form of another', request({ path: `https://${OTHER.name}/`, fields: [KEY] })],
    ['two Hosts', request({ fields: [`Host: ${OTHER.name}`, KEY] })],
    ['CONNECT', request({ method: 'CONNECT', path: `${OTHER.name}:443`, fields: [KEY] })],
    ['TRACE', request({ method: 'TRACE', fields: [KEY] })],
    ['OPTIONS', request({ method: 'OPTIONS', fields: [KEY] })],
    ['Max-Forwards: 0', request({ fields: ['Max-Forwards: 0', KEY] })],
    ['an upgrade to HTTP/2', request({ fields: [...HTTP2, KEY] })],
    ['in a path', request({ path: `/${KNOWN}` })],
    ['in a body', `${request({ method: 'POST', fields: [`Content-Length: ${KNOWN.length}`] })}${KNOWN}`],
    ['a second request with another Host', `${request({ isLast: false })}${other}`],
  ];
  for (const [what, text] of tries) await nothing(setting, what, () => toVault(setting, text));
}

/** Requests that would leave the value with the guest's own account at the same server. */
async function deposits(setting: Setting): Promise<void> {
  const { guest, root, tries, world } = setting;
  const bearer = `Authorization: Bearer ${KNOWN}`;
  const requests: readonly [string, Parameters<typeof request>[0]][] = [
    ['in metadata of an object', { method: 'PUT', fields: [OWN, `X-Goog-Meta-L: ${KNOWN}`] }],
    ['in a field that is logged', { fields: [OWN, `User-Agent: ${KNOWN}`] }],
    ['in a cookie', { fields: [OWN, `Cookie: l=${KNOWN}`] }],
    ['in the query', { path: `/?prefix=${KNOWN}`, fields: [OWN] }],
    ['in another parameter than its own', { path: `/?name=${QUERY_KNOWN}`, fields: [OWN] }],
    ['in the name of an object', { method: 'PUT', path: `/o/${KNOWN}`, fields: [OWN] }],
    ['in another credential field', { fields: [OWN, KEY] }],
    ['in a second Authorization', { fields: [OWN, bearer] }],
    ['in a list of credentials', { fields: [`${OWN}, Bearer ${KNOWN}`] }],
    ['in its place, beside a signed URL', { path: '/?X-Amz-Signature=0f', fields: [bearer] }],
    ['in its parameter, beside a token', { path: `/?key=${QUERY_KNOWN}`, fields: [OWN] }],
  ];
  for (const [what, given] of requests) {
    // Its question arrives at the resolver.
    await guest.name(VAULT.name);
    const arrivals = await world.watch();
    const outcome = await guest.https(VAULT.address, VAULT.name, root, request(given));
    const arrived = await arrivals();
    const [, code] = /"code":"(\w+)"/.exec(outcome.text) ?? [];
    const isRefused = code === 'secret_misplaced' || code === 'credential_beside_secret';
    const ok = isRefused && arrived.length === 0 && isClean(outcome);
    const seen = ok ? `403 ${code}` : `${outcome.outcome} ${outcome.text}`;
    tries.note(`a deposit ${what}`, 'refused, nothing arrives', seen, ok);
  }
  const { arrived } = await ask(setting, request({ fields: ['Cookie: session=mine', bearer] }));
  const ok = arrived.includes(VALUE) && !arrived.includes('session=mine');
  const seen = ok ? 'the server got no cookies' : arrived;
  tries.note('a cookie beside the secret', 'not sent', seen, ok);
  const own = await ask(setting, request({ method: 'PUT', fields: [OWN, 'X-Goog-Meta-L: x'] }));
  const isPassed = own.arrived.includes('of-the-guest');
  const shown = isPassed ? 'the server got it' : own.outcome.text;
  tries.note('control: its own credential alone', 'the server gets it', shown, isPassed);
}

async function echoed(setting: Setting): Promise<void> {
  for (const [what, path] of [
    ['a page', '/'],
    ['a page of chunks of one byte', '/chunked'],
    ['a redirect to another host', '/redirect'],
  ] as const) {
    const { arrived, outcome } = await ask(setting, request({ path, fields: [KEY] }));
    const text = outcome.text.replaceAll(/\r\n[0-9a-f]+\r\n/g, '');
    const ok = arrived.includes(VALUE) && isClean({ ...outcome, text }) && text.includes(KNOWN);
    const seen = ok ? 'the placeholder' : outcome.text;
    setting.tries.note(`echoed in ${what}`, 'the placeholder', seen, ok);
  }
}

/** Requests without a placeholder that guess the beginning of the secret. */
async function guessed(setting: Setting): Promise<void> {
  for (const length of [1, 9, VALUE.length - 1]) {
    const seen: string[] = [];
    for (const guess of [VALUE.slice(0, length), '~'.repeat(length)]) {
      const { outcome } = await ask(setting, request({ path: `/say/${guess}` }));
      seen.push(outcome.text.slice(outcome.text.indexOf('\r\n\r\n')).replace(guess, 'GUESS'));
    }
    const [right = '', wrong] = seen;
    const ok = right === wrong && right.includes('GUESS');
    const text = ok ? 'the same' : JSON.stringify(seen);
    setting.tries.note(`a guess of its first ${length} characters`, 'the same as for a wrong guess', text, ok);
  }
  for (const [what, field, name] of [
    ['a part of an answer', 'Range: bytes=0-11', 'range'],
    ['a compressed answer', 'Accept-Encoding: gzip', 'gzip'],
  ] as const) {
    const { arrived } = await ask(setting, request({ fields: [field] }));
    const ok = arrived.includes('identity') && !arrived.includes(name);
    const seen = ok ? 'the server was asked for a whole, plain one' : arrived;
    setting.tries.note(`${what}, without a placeholder`, 'not asked for', seen, ok);
  }
}

/** The host does not trust the server's certificate; then the secret is removed. */
async function untrusted(
  setting: Setting,
  secrets: EgressSecrets,
  lease: { setSecrets(secrets: EgressSecrets | undefined): Promise<void> },
): Promise<void> {
  const whole = request({ fields: [KEY] });
  const attempt = (): Promise<CallOutcome> => toVault(setting, whole);
  await lease.setSecrets({ ...secrets, roots: () => createSecureContext({ ca: [] }) });
  await nothing(setting, 'itself with an untrusted certificate', attempt);
  await lease.setSecrets({ ...secrets, secrets: [] });
  await nothing(setting, 'after the secret was removed', attempt);
  await lease.setSecrets(secrets);
  // Its name was not allowed meanwhile.
  await setting.guest.name(VAULT.name);
  const { arrived } = await ask(setting, whole);
  const ok = arrived.includes(VALUE);
  setting.tries.note('control: added again', 'the server gets it', ok ? 'it got it' : arrived, ok);
}

/** The secret neither arrives anywhere nor comes back. */
async function nothing({ tries, world }: Setting, what: string, attempt: () => Promise<CallOutcome>): Promise<void> {
  const arrivals = await world.watch();
  const outcome = await attempt();
  const arrived = (await arrivals()).map(({ text }) => text).join('\n');
  const ok = isClean(outcome) && isClean({ text: arrived });
  const [line = ''] = outcome.text.split('\r\n');
  const seen = ok ? `${outcome.outcome} ${line}`.trim().replaceAll(/[^ -~]/g, '.') : 'the secret';
  tries.note(what, 'no secret', seen, ok);
}

/** Resolves the name first, as clients do: its address is allowed only for a while after an answer. */
async function toVault({ guest, root }: Setting, text: string): Promise<CallOutcome> {
  await guest.name(VAULT.name);
  return await guest.https(VAULT.address, VAULT.name, root, text);
}

async function ask(setting: Setting, text: string): Promise<{ arrived: string; outcome: CallOutcome }> {
  const arrivals = await setting.world.watch();
  const outcome = await toVault(setting, text);
  return { outcome, arrived: (await arrivals()).map((one) => one.text).join('\n') };
}

function isClean({ text }: { readonly text: string }): boolean {
  return TRACES.every((trace) => !text.includes(trace));
}

function basic(password: string): string {
  return Buffer.from(`me:${password}`).toString('base64');
}

function request(what: {
  readonly method?: string;
  readonly path?: string;
  readonly host?: string;
  readonly fields?: readonly string[];
  readonly isLast?: boolean;
}): string {
  const { method = 'GET', path = '/', host = VAULT.name, fields = [], isLast = true } = what;
  const more = isLast ? [...fields, 'Connection: close'] : fields;
  return `${[`${method} ${path} HTTP/1.1`, `Host: ${host}`, ...more].join('\r\n')}\r\n\r\n`;
}
