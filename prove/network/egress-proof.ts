/** Proves that a guest with an allowlist reaches only what the list names. */

import { silentLog } from '../../src/base/log.ts';
import { parsePolicy } from '../../src/egress/net/policy/egress-rules.ts';
import { eventPoster } from '../../src/egress/webhook.ts';
import type { CallOutcome } from '../caller.ts';
import { forgedRequests, get } from '../forged-requests.ts';
import {
  ALLOWED,
  FOREIGN_RESOLVER,
  HOST_PUBLIC,
  HOST_UPLINK,
  LISTED_ADDRESS,
  METADATA_ADDRESSES,
  OTHER,
  PRIVATE_ADDRESSES,
} from '../map.ts';
import { type Control, eventually, type Forbidden, type Proof, Tries } from '../proof.ts';
import { type Guest, HOST_PORT, type LeasedGuest, type World } from '../world.ts';
import { requestTries } from './request-tries.ts';

const GUEST_PORT = 7000;
const ALLOW = [
  ALLOWED.name,
  HOST_PUBLIC.name,
  'private.example',
  `${LISTED_ADDRESS}:8080/tcp`,
  `${LISTED_ADDRESS}:9999/udp`,
];

/** @param webhookHosts for tests: hosts that webhooks may reach at private addresses */
export async function proveEgress(world: World, webhookHosts: readonly string[] = []): Promise<Proof> {
  const tries = new Tries(world);
  const listed = await world.guest({ mode: 'allowlist', allow: ALLOW });
  const other = await world.guest({ mode: 'open', allow: ['10.201.0.0/16'] });
  const { guest } = listed;
  await controls(tries, world, guest);
  await names(tries, guest);
  await forged(tries, guest);
  await pipelined(tries, guest);
  await otherPorts(tries, guest);
  await requestTries(tries, world);
  await spoofed(tries, listed, other.guest);
  await neighbours(tries, world, guest, other.guest);
  await narrowed(tries, listed);
  await webhooks(tries, webhookHosts);
  return tries.proof('egress');
}

async function controls(tries: Tries, world: World, guest: Guest): Promise<void> {
  await tries.names([
    {
      what: `control: the resolver resolves ${ALLOWED.name}`,
      attempt: () => guest.name(ALLOWED.name),
      code: 0,
      addresses: [ALLOWED.address],
    },
    {
      what: `control: and by TCP, whichever server is asked`,
      attempt: () => guest.name(ALLOWED.name, { server: FOREIGN_RESOLVER, transport: 'tcp' }),
      code: 0,
      addresses: [ALLOWED.address],
    },
  ]);
  const page = (name: string) => `page of ${name}`;
  await tries.allowed(
    page(ALLOWED.name),
    [`control: ${ALLOWED.name} by HTTP`, () => guest.exchange(ALLOWED.address, 80, get(ALLOWED.name))],
    [`control: ${ALLOWED.name} by TLS`, () => guest.tls(ALLOWED.address, ALLOWED.name)],
  );
  await tries.allowed(
    page(OTHER.name),
    [
      `control: a guest on an ordinary TAP asks ${OTHER.name} by HTTP`,
      () => world.plain.exchange(OTHER.address, 80, get(OTHER.name)),
    ],
    [`control: and by TLS`, () => world.plain.tls(OTHER.address, OTHER.name)],
  );
  const plainPorts = [
    [OTHER.address, 8080],
    [PRIVATE_ADDRESSES[0], 8080],
    [FOREIGN_RESOLVER, 853],
    [HOST_UPLINK, HOST_PORT],
    [HOST_PUBLIC.address, 80],
  ] as const;
  await tries.allowed(
    'hello',
    [`control: ${LISTED_ADDRESS} port 8080, which a rule opens`, () => guest.exchange(LISTED_ADDRESS, 8080)],
    ...plainPorts.map(
      ([address, port]): Control => [
        `control: a guest on an ordinary TAP connects to ${address} port ${port}`,
        () => world.plain.exchange(address, port),
      ],
    ),
  );
}

async function names(tries: Tries, guest: Guest): Promise<void> {
  const leak = (text: string) => `${text}.data.evil.test`;
  const ask = (what: string, name: string, more: Parameters<Guest['name']>[1] = {}) => ({
    what,
    attempt: () => guest.name(name, more),
    code: 3,
    secret: name,
  });
  await tries.names([
    ask('a name that no rule allows', OTHER.name),
    ask('a name that carries data', leak('secret1')),
    ask(`the same from ${FOREIGN_RESOLVER} by UDP`, leak('secret2'), { server: FOREIGN_RESOLVER }),
    ask(`the same from ${FOREIGN_RESOLVER} by TCP`, leak('secret3'), { server: FOREIGN_RESOLVER, transport: 'tcp' }),
    { ...ask('a TXT record of it', leak('secret4'), { type: 16 }) },
    {
      what: `private.example, which resolves to ${PRIVATE_ADDRESSES[0]}`,
      attempt: () => guest.name('private.example'),
      code: 3,
    },
    {
      what: `HTTPS records of ${ALLOWED.name}, which carry keys for encrypted hellos`,
      attempt: () => guest.name(ALLOWED.name, { type: 65 }),
      code: 0,
    },
  ]);
}

async function forged(tries: Tries, guest: Guest): Promise<void> {
  const http = (what: string, to: string, text: string, trace: string): Forbidden => ({
    what,
    attempt: () => guest.exchange(to, 80, text),
    isArrival: ({ protocol, text: line }) => protocol === 'http' && line.includes(trace),
  });
  const tls = (what: string, to: string, name?: string): Forbidden => ({
    what,
    attempt: () => guest.tls(to, name),
    isArrival: ({ protocol, to: at, text }) =>
      protocol === 'tls' && at === to && (to === OTHER.address || text !== ALLOWED.name),
  });
  const requests = forgedRequests({
    allowed: ALLOWED.name,
    other: OTHER,
    forged: ALLOWED.name,
    trace: (index) => `e${index}`,
  });
  await tries.forbidden([
    ...requests.map(({ what, to, text, trace }) => {
      const { address } = to === 'allowed' ? ALLOWED : OTHER;
      return http(what, address, text, trace);
    }),
    tls('SNI is another name', ALLOWED.address, OTHER.name),
    tls('SNI is forged', OTHER.address, ALLOWED.name),
    tls('no SNI', ALLOWED.address),
    {
      what: 'no TLS on port 443',
      attempt: () => guest.exchange(OTHER.address, 443, 'SSH-2.0-x\r\n'),
      isArrival: ({ to, port }) => to === OTHER.address && port === 443,
    },
  ]);
}

async function pipelined(tries: Tries, guest: Guest): Promise<void> {
  const first = `GET /p1 HTTP/1.1\r\nHost: ${ALLOWED.name}\r\n\r\n`;
  let text = '';
  await tries.forbidden([
    {
      what: 'a second request on the connection, with another Host',
      attempt: async () => {
        const got = await guest.exchange(ALLOWED.address, 80, first + get(OTHER.name, '/p2'));
        ({ text } = got);
        // The first answer is allowed.
        return { ...got, text: text.slice(text.lastIndexOf('HTTP/1.1')) };
      },
      isArrival: ({ protocol, text: line }) => protocol === 'http' && line.includes('/p2'),
    },
  ]);
  const isAnswered = text.includes(`page of ${ALLOWED.name}`);
  const seen = isAnswered ? 'it was' : `"${text.slice(0, 40)}"`;
  tries.note('control: the first request of that connection is answered', 'it was', seen, isAnswered);
}

async function otherPorts(tries: Tries, guest: Guest): Promise<void> {
  const tcp = (what: string, to: string, port: number): Forbidden => ({
    what: `${what}: ${to} port ${port}`,
    attempt: () => guest.exchange(to, port),
    isArrival: (arrival) => arrival.to === to && arrival.port === port,
  });
  await tries.forbidden([
    tcp('DNS over TLS', FOREIGN_RESOLVER, 853),
    tcp('another port of an allowed name', ALLOWED.address, 8080),
    tcp('another address', OTHER.address, 8080),
    ...PRIVATE_ADDRESSES.map((address) => tcp('a private range', address, 8080)),
    tcp('another port of an allowed address', LISTED_ADDRESS, 853),
    {
      what: `QUIC: UDP ${OTHER.address} port 443`,
      attempt: () => guest.datagram(OTHER.address, 443, 'quic'),
      isArrival: ({ protocol, to, port }) => protocol === 'udp' && to === OTHER.address && port === 443,
    },
  ]);
}

async function spoofed(tries: Tries, { guest, lease }: LeasedGuest, other: Guest): Promise<void> {
  const send = (text: string, frame: { from?: string; fromMac?: string }) => async () => {
    await guest.frame({ to: LISTED_ADDRESS, port: 9999, text, ...frame });
    // Sent on the same card, so its answer shows that the frame before it was processed.
    return await guest.datagram(LISTED_ADDRESS, 9999, 'barrier');
  };
  await tries.allowed('own', [
    `control: a datagram to ${LISTED_ADDRESS} port 9999, which a rule opens`,
    () => guest.datagram(LISTED_ADDRESS, 9999, 'own'),
  ]);
  await tries.arrives(
    'control: a frame past the guest’s kernel with its own addresses',
    send('s0', {}),
    ({ protocol, text }) => protocol === 'udp' && text === 's0',
  );
  const before = (await lease.traffic()).refused['spoofed'] ?? 0;
  const isMarked =
    (marker: string): Forbidden['isArrival'] =>
    ({ protocol, text }) =>
      protocol === 'udp' && text === marker;
  await tries.forbidden([
    {
      what: 'a frame with the source address of another guest',
      attempt: send('s1', { from: other.address }),
      isArrival: isMarked('s1'),
    },
    {
      what: 'a frame with the source address of a stranger',
      attempt: send('s2', { from: '8.8.4.4' }),
      isArrival: isMarked('s2'),
    },
    {
      what: 'a frame with the source MAC of another guest',
      attempt: send('s3', { fromMac: other.mac }),
      isArrival: isMarked('s3'),
    },
  ]);
  const counted = ((await lease.traffic()).refused['spoofed'] ?? 0) - before;
  tries.note('the kernel counted the frames as spoofed', '3', String(counted), counted === 3);
}

async function neighbours(tries: Tries, world: World, guest: Guest, other: Guest): Promise<void> {
  const received = (one: Guest) => one.actor.ask<string[]>('received');
  for (const each of [other, world.plain]) await each.actor.ask('listen', { port: GUEST_PORT });
  // The first may be dropped while the neighbor is resolved, so each attempt sends another.
  const reached = await eventually(async () => {
    await world.internet.ask('send', { host: world.plain.address, port: GUEST_PORT, text: 'n0' });
    return (await received(world.plain)).includes('n0');
  });
  const control = 'control: the same listener on an ordinary TAP is reached by the network';
  tries.note(control, 'it is', reached ? 'it is' : 'it is not', reached);
  const hear = async (text: string) => {
    const outcome = await guest.datagram(other.address, GUEST_PORT, text);
    return { outcome, heard: (await received(other)).includes(text) };
  };
  const toGuest = await hear('n1');
  tries.note(
    `another guest, ${other.address} port ${GUEST_PORT}`,
    'received nothing',
    `${toGuest.outcome.outcome}; ${toGuest.heard ? 'received it' : 'received nothing'}`,
    !toGuest.heard,
  );
  await world.internet.ask('send', { host: other.address, port: GUEST_PORT, text: 'n2' });
  await other.datagram(other.gateway, 9, 'barrier');
  const fromOutside = (await received(other)).includes('n2');
  const heard = fromOutside ? 'received it' : 'received nothing';
  tries.note('a datagram from the network to a guest', 'received nothing', heard, !fromOutside);
  const addresses = [guest.gateway, other.gateway, HOST_UPLINK];
  await tries.names([
    {
      what: `control: the resolver resolves ${HOST_PUBLIC.name}, which is the host’s own public address`,
      attempt: () => guest.name(HOST_PUBLIC.name),
      code: 0,
      addresses: [HOST_PUBLIC.address],
    },
  ]);
  await tries.forbidden([
    ...addresses.map(
      (address): Forbidden => ({
        what: `a port of the host, ${address} port ${HOST_PORT}`,
        attempt: () => guest.exchange(address, HOST_PORT),
        isArrival: ({ to, port }) => to === address && port === HOST_PORT,
      }),
    ),
    {
      what: `the host’s own public address by its allowed name, ${HOST_PUBLIC.name}`,
      attempt: () => guest.exchange(HOST_PUBLIC.address, 80, get(HOST_PUBLIC.name)),
      isArrival: ({ to, port }) => to === HOST_PUBLIC.address && port === 80,
    },
  ]);
}

/** A narrowed policy ends the connections that it forbids. */
async function narrowed(tries: Tries, { guest, lease }: LeasedGuest): Promise<void> {
  const hold = { host: ALLOWED.address, port: 443, servername: ALLOWED.name };
  const held = await guest.actor.ask<string>('hold', hold);
  const before = held === 'answer' ? await guest.actor.ask<string>('poke') : held;
  const what = `control: a connection to ${ALLOWED.name} stays open`;
  tries.note(what, 'answer', before, before === 'answer');
  await lease.setPolicy(parsePolicy({ mode: 'allowlist', allow: [`${LISTED_ADDRESS}:8080`] }));
  const after = await guest.actor.ask<string>('poke');
  tries.note('that connection, after its rule was removed', 'ended', after, after !== 'answer' && after !== 'silence');
  await tries.forbidden([
    {
      what: `${ALLOWED.name} again, after its rule was removed`,
      attempt: () => guest.exchange(ALLOWED.address, 80, get(ALLOWED.name, '/n3')),
      isArrival: ({ text }) => text.includes('/n3'),
    },
  ]);
  await lease.setPolicy(parsePolicy({ mode: 'none' }));
  await tries.forbidden([
    {
      what: `mode none: ${LISTED_ADDRESS} port 8080`,
      attempt: () => guest.exchange(LISTED_ADDRESS, 8080),
      isArrival: ({ to, port }) => to === LISTED_ADDRESS && port === 8080,
    },
  ]);
  await tries.names([
    {
      what: 'mode none: names are not resolved',
      attempt: () => guest.name(ALLOWED.name),
      code: -1,
      secret: ALLOWED.name,
    },
  ]);
}

/** A caller chooses the URL to which this host posts a sandbox's events, and learns whether that worked. */
async function webhooks(tries: Tries, hosts: readonly string[]): Promise<void> {
  const resolve = async () => [{ address: PRIVATE_ADDRESSES[0], family: 4 }];
  const post = eventPoster({ hosts, log: silentLog, resolve });
  const to =
    (host: string, path = '/') =>
    async (): Promise<CallOutcome> =>
      await post(`http://${host}${path}`, { event: 'near_oom' }).then(
        () => ({ outcome: 'answer', text: 'delivered' }),
        (error: unknown) => ({ outcome: 'refused', text: String(error) }),
      );
  const isAt =
    (address: string, port: number): Forbidden['isArrival'] =>
    (arrival) =>
      arrival.to === address && arrival.port === port;
  await tries.allowed('delivered', [`control: a webhook at ${OTHER.address}`, to(OTHER.address)]);
  const own = ['127.0.0.1', HOST_PUBLIC.address, HOST_UPLINK];
  await tries.forbidden([
    ...[...METADATA_ADDRESSES, ...PRIVATE_ADDRESSES, ...own].map(
      (address): Forbidden => ({
        what: `a webhook at ${address}`,
        attempt: to(own.includes(address) ? `${address}:${HOST_PORT}` : address),
        isArrival: isAt(address, own.includes(address) ? HOST_PORT : 80),
      }),
    ),
    {
      what: 'a webhook at a name with a private address',
      attempt: to('private.example:8080'),
      isArrival: isAt(PRIVATE_ADDRESSES[0], 8080),
    },
    {
      what: `a webhook that redirects to ${METADATA_ADDRESSES[0]}`,
      attempt: to(OTHER.address, '/redirect'),
      isArrival: isAt(METADATA_ADDRESSES[0], 80),
    },
  ]);
}
