/** Proves that no metadata service is reachable, with any policy and any spelling of the address. */
import { describeError, errorCode } from '../../src/base/errors.ts';
import { METADATA } from '../../src/egress/net/addresses/metadata.ts';
import type { NetworkLease } from '../../src/egress/net/lease/lease.ts';
import { Links } from '../../src/egress/net/link/links.ts';
import { ACCEPT, add, assign, flush, MARK } from '../../src/egress/net/nftables/json.ts';
import { Nft } from '../../src/egress/net/nftables/nft.ts';
import { GUARD_MARK } from '../../src/egress/net/nftables/sandbox-chains.ts';
import { parsePolicy } from '../../src/egress/net/policy/egress-rules.ts';
import { exchange } from '../caller.ts';
import { get, METADATA_SPELLINGS } from '../forged-requests.ts';
import { ALLOWED, type Arrival, HOST_AGENT, METADATA_ADDRESSES, OTHER, SECRET } from '../map.ts';
import { type Control, type Forbidden, type Proof, Tries } from '../proof.ts';
import type { Guest, World } from '../world.ts';

const FIRST = METADATA_ADDRESSES[0];
/** Names that resolve to it, by an address or an alias. */
const REBINDING = ['rebind.example', 'alias.example', 'cloud.example'];

export async function proveMetadata(world: World): Promise<Proof> {
  const tries = new Tries(world);
  const { guest: open, lease: openLease } = await world.guest({ mode: 'open', allow: ['0.0.0.0/0'] });
  const { guest: listed, lease: listedLease } = await world.guest({
    mode: 'allowlist',
    allow: [ALLOWED.name, '*.example', '0.0.0.0/0:8080', '0.0.0.0/0:9999'],
  });
  await controls(tries, world, open, listed);
  policies(tries);
  await literals(tries, open, listed);
  await counted(tries, 'open', openLease);
  await counted(tries, 'allowlist', listedLease);
  await names(tries, open, listed);
  await redirected(tries, open);
  await requests(tries, listed);
  await unfiltered(tries, world);
  return tries.proof('metadata');
}

/** The services exist, the same program reaches them without us, and the guests do work. */
async function controls(tries: Tries, world: World, open: Guest, listed: Guest): Promise<void> {
  const there = [...METADATA_ADDRESSES, HOST_AGENT];
  await tries.allowed(
    SECRET,
    ...there.map(
      (address): Control => [
        `control: the host itself asks ${address}`,
        () => exchange({ host: address, port: 80, text: get(address) }),
      ],
    ),
    ...there.map(
      (address): Control => [
        `control: a guest on an ordinary TAP asks ${address}`,
        () => world.plain.exchange(address, 80, get(address)),
      ],
    ),
  );
  await tries.arrives(
    `control: a frame of UDP to ${FIRST} port 9999 on an ordinary TAP, past the guest’s kernel`,
    () => silentFrame(world.plain, FIRST),
    ({ protocol, to }) => protocol === 'udp' && to === FIRST,
  );
  await listed.name(ALLOWED.name);
  await tries.allowed(`page of ${OTHER.name}`, [
    `control: the open guest asks ${OTHER.address}`,
    () => open.exchange(OTHER.address, 80, get(OTHER.name)),
  ]);
  await tries.allowed(`page of ${ALLOWED.name}`, [
    `control: the guest with an allowlist asks ${ALLOWED.name}`,
    () => listed.exchange(ALLOWED.address, 80, get(ALLOWED.name)),
  ]);
}

/** The kernel's count shows that the packets got as far as the packet filter. */
async function counted(tries: Tries, mode: string, lease: NetworkLease): Promise<void> {
  const packets = (await lease.traffic()).refused['metadata'] ?? 0;
  const what = `${mode}: packets to metadata services that the kernel dropped`;
  tries.note(what, 'at least 10', String(packets), packets >= 10);
}

function policies(tries: Tries): void {
  const rules = [FIRST, '169.254.0.0/16', '168.63.129.16:80', 'metadata.google.internal'];
  for (const rule of rules) {
    let seen = 'accepted';
    let code: string | undefined;
    try {
      parsePolicy({ mode: 'allowlist', allow: [rule] });
    } catch (error) {
      code = errorCode(error);
      seen = `${code}: ${describeError(error)}`;
    }
    tries.note(`policy: allow ${rule}`, 'policy_invalid', seen, code === 'policy_invalid');
  }
}

async function literals(tries: Tries, open: Guest, listed: Guest): Promise<void> {
  const guests = [
    ['open', open],
    ['allowlist', listed],
  ] as const;
  for (const [mode, guest] of guests) {
    const ask = (host: string, what: string, port = 80): Forbidden => ({
      what: `${mode}: ${what}`,
      attempt: () => guest.exchange(host, port, get(host)),
      isArrival: ({ to }) => to === host.replace('::ffff:', ''),
    });
    await tries.forbidden([
      ...[...METADATA_ADDRESSES, HOST_AGENT].map((address) => ask(address, `${address} port 80`)),
      ask(FIRST, `${FIRST} port 443`, 443),
      ask(FIRST, `${FIRST} port 8080`, 8080),
      ask(`::ffff:${FIRST}`, `IPv4-mapped ::ffff:${FIRST}`),
      ...METADATA_SPELLINGS.map((text) => {
        const { hostname } = new URL(`http://${text}/`);
        return ask(hostname, `http://${text}/, which programs read as ${hostname}`);
      }),
      {
        what: `${mode}: a frame of UDP to ${FIRST} port 9999, past the guest’s kernel`,
        attempt: () => silentFrame(guest, FIRST),
        isArrival: ({ to, protocol }) => to === FIRST && protocol === 'udp',
      },
      {
        what: `${mode}: a frame of IPv6 to fd00:ec2::254`,
        attempt: () => silentFrame(guest, 'fd00:ec2::254', 'fd00::2'),
        isArrival: ({ to }) => to.includes(':'),
      },
    ]);
  }
}

async function silentFrame(guest: Guest, to: string, from = guest.address) {
  await guest.frame({ to, from, port: 9999, text: 'past the kernel' });
  // Answered only after the frame before it was processed.
  return await guest.datagram(guest.gateway, 9, 'barrier');
}

async function names(tries: Tries, open: Guest, listed: Guest): Promise<void> {
  const known = METADATA.flatMap((row) => row.names);
  await tries.names([
    {
      what: `control: the resolver resolves ${ALLOWED.name}`,
      attempt: () => listed.name(ALLOWED.name),
      code: 0,
      addresses: [ALLOWED.address],
    },
    ...[...known, ...METADATA_SPELLINGS].map((name) => ({
      what: `open: the name ${name}`,
      attempt: () => open.name(name),
      code: 3,
      secret: name,
    })),
    ...REBINDING.flatMap((name) =>
      [open, listed].map((guest, index) => ({
        what: `${index === 0 ? 'open' : 'allowlist'}: ${name}, which resolves to ${FIRST}`,
        attempt: () => guest.name(name),
        code: 3,
      })),
    ),
    {
      what: `allowlist: mixed.example, which resolves to ${ALLOWED.address} and ${FIRST}`,
      attempt: () => listed.name('mixed.example'),
      code: 0,
      addresses: [ALLOWED.address],
    },
    {
      what: 'allowlist: rebind.example by TCP',
      attempt: () => listed.name('rebind.example', { transport: 'tcp' as const }),
      code: 3,
    },
    {
      what: 'allowlist: flip.example at first',
      attempt: () => listed.name('flip.example'),
      code: 0,
      addresses: [ALLOWED.address],
    },
  ]);
  await tries.names([
    {
      what: `allowlist: flip.example again, which resolves to ${FIRST} now`,
      attempt: () => listed.name('flip.example'),
      code: 3,
    },
  ]);
  await tries.forbidden([
    {
      what: `allowlist: ${FIRST} under the name flip.example`,
      attempt: () => listed.exchange(FIRST, 80, get('flip.example')),
      isArrival: ({ to }) => to === FIRST,
    },
  ]);
}

async function redirected(tries: Tries, open: Guest): Promise<void> {
  const page = await open.exchange(ALLOWED.address, 80, get(ALLOWED.name, '/redirect'));
  const location = /^location: (\S+)/im.exec(page.text)?.[1] ?? '';
  const isThere = location === `http://${FIRST}/latest/meta-data/`;
  tries.note(`control: ${ALLOWED.name}/redirect redirects to ${FIRST}`, 'it does', location, isThere);
  const { hostname, pathname } = new URL(isThere ? location : `http://${FIRST}/`);
  await tries.forbidden([
    {
      what: `open: the redirect followed to ${hostname}`,
      attempt: () => open.exchange(hostname, 80, get(hostname, pathname)),
      isArrival: ({ to }) => to === hostname,
    },
  ]);
}

/** Requests through the gateway to an allowed address, in the hope that a server behind it forwards them. */
async function requests(tries: Tries, listed: Guest): Promise<void> {
  const to = ALLOWED.address;
  const meant = [FIRST, '[::ffff:169.254.169.254]', 'metadata.google.internal', ...METADATA_SPELLINGS];
  const send = (what: string, text: string, marker: string): Forbidden => ({
    what: `allowlist: ${what}`,
    attempt: () => listed.exchange(to, 80, text),
    isArrival: ({ protocol, text: line }) => protocol === 'http' && line.includes(marker),
  });
  await tries.forbidden([
    ...meant.map((host) => send(`Host: ${host}`, get(host, '/m1'), '/m1')),
    send('absolute-form to it', get(ALLOWED.name, `http://${FIRST}/m2`), '/m2'),
    send('CONNECT to it', `CONNECT ${FIRST}:80 HTTP/1.1\r\nHost: ${FIRST}:80\r\n\r\n`, `CONNECT`),
  ]);
}

/** Without the packet filter XDP still protects metadata services, on a host that has it. */
async function unfiltered(tries: Tries, world: World): Promise<void> {
  const { id, guest, lease } = await world.guest({ mode: 'allowlist', allow: [ALLOWED.name] });
  if (!hasXdp(lease)) {
    const seen = 'XDP is not available here (`neurovisor doctor --network` says why)';
    tries.note('packet filter removed', 'metadata services stay unreachable', seen, true);
    return;
  }
  const chains = [`from_${id}`, `forward_${id}`, `to_${id}`];
  const open = chains.flatMap((chain) => [
    flush('chain', chain),
    // With the mark of accepted packets: without it the second filter drops everything.
    add('rule', { chain, expr: [assign(MARK, GUARD_MARK), ACCEPT] }),
  ]);
  await new Nft().apply(open);
  await tries.allowed('hello', [
    `control: packet filter removed, ${OTHER.address} port 8080, which no rule allows`,
    () => guest.exchange(OTHER.address, 8080),
  ]);
  const what = (text: string): string => `packet filter removed: ${text}`;
  await tries.forbidden([
    ...METADATA_ADDRESSES.flatMap((address) =>
      [80, 8080].map((port) => ({
        what: what(`${address} port ${port}`),
        attempt: () => guest.exchange(address, port, get(address)),
        isArrival: ({ to }: Arrival) => to === address,
      })),
    ),
    {
      what: what(`a frame of UDP to ${FIRST} port 9999, past the guest’s kernel`),
      attempt: () => silentFrame(guest, FIRST),
      isArrival: ({ to, protocol }) => to === FIRST && protocol === 'udp',
    },
  ]);
  const packets = (await lease.traffic()).refused['metadata'] ?? 0;
  tries.note(what('XDP counted what it dropped'), 'at least 15', String(packets), packets >= 15);
}

function hasXdp({ interfaceName }: NetworkLease): boolean {
  using links = new Links();
  return links.find(interfaceName)?.xdpProgramId !== undefined;
}
