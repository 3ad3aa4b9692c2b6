/** Attempts to bypass rules by method and path and byte limits by name. Part of `egress`. */
import { createSecureContext } from 'node:tls';
import { systemClock } from '../../src/base/clock.ts';
import { CertificateAuthority } from '../../src/egress/net/secret/authority.ts';
import type { EgressSecrets } from '../../src/egress/net/secret/secret.ts';
import type { CallOutcome } from '../caller.ts';
import { ALLOWED, OTHER, VAULT } from '../map.ts';
import type { Forbidden, Tries } from '../proof.ts';
import type { Guest, LeasedGuest, World } from '../world.ts';
import { ask, BODY_METHOD, hiddenRequests, RULE_METHOD, RULE_PATH } from './hidden-requests.ts';

const METHODS = `${RULE_METHOD},HEAD,${BODY_METHOD}`;
const BUDGET_BYTES = 2000;
/** Each request takes some hundred bytes in both directions. */
const BUDGET_TRIES = 40;

export async function requestTries(tries: Tries, world: World): Promise<void> {
  const authority = new CertificateAuthority(systemClock);
  const ca = await world.internet.ask<string>('root');
  const roots = createSecureContext({ ca });
  const secrets: EgressSecrets = { secrets: [], authority, roots: () => roots };
  const root = await authority.certificate();
  // Created in advance, so that no try waits for it.
  await authority.contextFor(VAULT.name);
  const allow = [
    `${METHODS} http://${ALLOWED.name}${RULE_PATH}`,
    `${METHODS} https://${VAULT.name}${RULE_PATH}`,
    OTHER.name,
  ];
  const leased = await world.guest({ mode: 'allowlist', allow }, secrets);
  const { guest } = leased;
  for (const { name } of [ALLOWED, VAULT, OTHER]) await guest.name(name);
  await controls(tries, guest, root);
  await hidden(tries, guest, root);
  await otherDoors(tries, guest, root);
  noteCounts(tries, leased);
  await budget(tries, world);
}

async function controls(tries: Tries, guest: Guest, root: string): Promise<void> {
  const path = '/v1/models?q=/../%2e';
  await tries.allowed(
    'page of',
    [
      'control: a path that a rule allows, by HTTP',
      () => guest.exchange(ALLOWED.address, 80, ask(ALLOWED.name, 'GET', path)),
    ],
    [
      'control: the same by TLS, which the host terminates',
      () => guest.https(VAULT.address, VAULT.name, root, ask(VAULT.name, 'GET', path)),
    ],
    [
      'control: absolute-form of an allowed path',
      () => guest.exchange(ALLOWED.address, 80, ask(ALLOWED.name, 'GET', `http://${ALLOWED.name}${path}`)),
    ],
    [
      'control: a name without such rules, any method and path',
      () => guest.exchange(OTHER.address, 80, ask(OTHER.name, 'PUT', '/a/../b')),
    ],
    ['control: TLS to a name without such rules is not terminated', () => guest.tls(OTHER.address, OTHER.name)],
  );
}

async function hidden(tries: Tries, guest: Guest, root: string): Promise<void> {
  type Send = (text: string) => Promise<CallOutcome>;
  const ways: readonly ['http' | 'https', string, Send][] = [
    ['http', ALLOWED.name, (text) => guest.exchange(ALLOWED.address, 80, text)],
    ['https', VAULT.name, (text) => guest.https(VAULT.address, VAULT.name, root, text)],
  ];
  for (const [how, name, send] of ways) {
    const mark = (index: number): string => `r${how}${index}x`;
    await tries.forbidden(
      hiddenRequests(how, name, mark).map(
        ({ what, text }, index): Forbidden => ({
          what: `by ${how}, ${what}`,
          attempt: async () => withoutFirst(await send(text)),
          isArrival: ({ protocol, text: line }) => protocol === 'http' && line.includes(mark(index)),
        }),
      ),
    );
  }
}

/** The answer to an allowed request may precede the refusal. */
function withoutFirst(outcome: CallOutcome): CallOutcome {
  const last = outcome.text.lastIndexOf('HTTP/1.1 4');
  return last < 0 ? outcome : { ...outcome, text: outcome.text.slice(last) };
}

async function otherDoors(tries: Tries, guest: Guest, root: string): Promise<void> {
  const arrivesAt =
    (address: string, port: number): Forbidden['isArrival'] =>
    ({ to, port: at }) =>
      to === address && at === port;
  await tries.forbidden([
    {
      what: 'a name with an https rule, by plain HTTP',
      attempt: () => guest.exchange(VAULT.address, 80, ask(VAULT.name, 'GET', '/v1/')),
      isArrival: arrivesAt(VAULT.address, 80),
    },
    {
      what: 'a name with an http rule, by TLS',
      attempt: () => guest.tls(ALLOWED.address, ALLOWED.name),
      isArrival: arrivesAt(ALLOWED.address, 443),
    },
    {
      what: 'its address under another allowed name',
      attempt: () => guest.tls(VAULT.address, OTHER.name),
      isArrival: ({ protocol, to }) => protocol === 'tls' && to === VAULT.address,
    },
    {
      what: 'another allowed name inside its TLS',
      attempt: () => guest.https(VAULT.address, VAULT.name, root, ask(OTHER.name, 'GET', '/v1/inside')),
      isArrival: ({ text }) => text.includes('/v1/inside'),
    },
    {
      what: 'another port of it',
      attempt: () => guest.exchange(VAULT.address, 8080),
      isArrival: arrivesAt(VAULT.address, 8080),
    },
    {
      what: 'its address by QUIC',
      attempt: () => guest.datagram(ALLOWED.address, 443, 'quic'),
      isArrival: ({ protocol, port }) => protocol === 'udp' && port === 443,
    },
  ]);
}

function noteCounts(tries: Tries, { lease }: LeasedGuest): void {
  const { refused } = lease.gatewayUse();
  for (const reason of ['path_refused', 'path_ambiguous', 'method_refused', 'field_refused']) {
    const count = refused[reason] ?? 0;
    tries.note(`the gateway counted ${reason}`, 'some', String(count), count > 0);
  }
}

async function budget(tries: Tries, world: World): Promise<void> {
  const limits = { destinations: [{ name: ALLOWED.name, bytesMax: BUDGET_BYTES }] };
  const policy = { mode: 'allowlist', allow: [ALLOWED.name, OTHER.name] };
  const { guest, lease } = await world.guest(policy, undefined, limits);
  for (const { name } of [ALLOWED, OTHER]) await guest.name(name);
  const send = (path: string) => guest.exchange(ALLOWED.address, 80, ask(ALLOWED.name, 'GET', path));
  let answered = 0;
  let isRefused = false;
  for (let n = 0; n < BUDGET_TRIES && !isRefused; n += 1) {
    const { text } = await send('/budget');
    if (text.includes('page of')) answered += 1;
    isRefused = text.includes('budget_spent');
  }
  const what = `control: with ${BUDGET_BYTES} bytes for a name, some requests are answered, then none`;
  const seen = `${answered} answered; ${isRefused ? 'then none' : 'no end'}`;
  tries.note(what, 'some, then none', seen, answered > 0 && isRefused);
  await tries.forbidden([
    {
      what: 'the same name after its budget is used up',
      attempt: () => send('/spent-h'),
      isArrival: ({ text }) => text.includes('/spent-h'),
    },
    {
      what: 'and by TLS',
      attempt: () => guest.tls(ALLOWED.address, ALLOWED.name),
      isArrival: ({ protocol, to }) => protocol === 'tls' && to === ALLOWED.address,
    },
  ]);
  const [use] = lease.gatewayUse().destinations;
  const used = use?.bytesUsed ?? 0;
  tries.note('the gateway counted them', `${BUDGET_BYTES}`, String(used), used === BUDGET_BYTES);
  await tries.allowed('page of', [
    'control: another name is still reachable',
    () => guest.exchange(OTHER.address, 80, ask(OTHER.name, 'GET', '/')),
  ]);
}
