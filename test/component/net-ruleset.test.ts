/** The packet filter against the real kernel, between namespaces of the test. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { newSandboxId } from '../../src/base/ids.ts';
import { AddressPlan } from '../../src/egress/net/addresses/address-plan.ts';
import { Nft } from '../../src/egress/net/nftables/nft.ts';
import {
  addPins,
  addSandbox,
  removeSandbox,
  removeTable,
  updateSandbox,
  wholeTable,
} from '../../src/egress/net/nftables/ruleset.ts';
import type { ChainInput } from '../../src/egress/net/nftables/sandbox-chains.ts';
import { DROP_COUNTERS, readTraffic } from '../../src/egress/net/nftables/sandbox-counters.ts';
import { type EgressPolicyText, parsePolicy } from '../../src/egress/net/policy/egress-rules.ts';
import {
  createWorld,
  type Guest,
  HOST_METADATA,
  METADATA4,
  METADATA6,
  networkOf,
  PRIVATE,
  UPLINK,
  type World,
} from '../support/ruleset-world.ts';

const OPEN_TO_ALL: EgressPolicyText = { mode: 'open', allow: ['0.0.0.0/0'] };
let world: World;

beforeAll(async () => {
  world = await createWorld();
});
afterAll(() => world[Symbol.asyncDispose]());

/** Creates a new table with both guests under the same policy. */
const begin = (policy: EgressPolicyText, more: Partial<ChainInput> = {}): Promise<void> =>
  world.nft.apply(wholeTable([world.a, world.b].map((guest) => networkOf(guest, policy, more))));
const update = (policy: EgressPolicyText, more: Partial<ChainInput> = {}): Promise<void> =>
  world.nft.apply(updateSandbox(networkOf(world.a, policy, more), []));
async function arrivalsDuring(act: () => Promise<unknown>): Promise<number> {
  const all = (): number => world.internet.arrivals.length + world.hostPeer.arrivals.length;
  const before = all();
  await act();
  return all() - before;
}
async function dropsDuring(
  guest: Guest,
  counter: keyof typeof DROP_COUNTERS,
  act: () => Promise<unknown>,
): Promise<number> {
  const read = async (): Promise<number> => (await world.traffic(guest)).counts[counter].packets;
  const before = await read();
  await act();
  return (await read()) - before;
}

describe('packet filter: metadata', () => {
  it('control: without the table a guest reaches it', async () => {
    await world.nft.apply(removeTable());
    for (const address of [...METADATA4, ...METADATA6, HOST_METADATA]) {
      // IPv6 needs a moment after the links are up.
      for (const peer of [world.a.peer, world.hostPeer]) {
        await expect.poll(async () => [address, (await peer.tcp(address, 80)).outcome]).toEqual([address, 'answer']);
      }
    }
  });
  it('is unreachable for a guest that allows everything, and reachable for the host', async () => {
    await begin(OPEN_TO_ALL);
    expect((await world.a.peer.tcp('8.8.8.8', 80)).outcome).toBe('answer');
    for (const address of [...METADATA4, HOST_METADATA, '169.254.0.23', '169.254.170.2']) {
      let outcome = '';
      const dropped = await dropsDuring(world.a, 'metadata', async () => {
        const arrived = await arrivalsDuring(async () => {
          ({ outcome } = await world.a.peer.tcp(address, 80));
        });
        expect([address, arrived]).toEqual([address, 0]);
      });
      expect([address, outcome]).toEqual([address, 'silence']);
      expect(dropped).toBeGreaterThan(0);
    }
    for (const address of [...METADATA4, ...METADATA6, HOST_METADATA]) {
      expect([address, (await world.hostPeer.tcp(address, 80)).outcome]).toEqual([address, 'answer']);
    }
  });
  it('is unreachable over IPv6: no IPv6 packet passes', async () => {
    const dropped = await dropsDuring(world.a, 'ipv6', async () => {
      for (const address of METADATA6) {
        expect(await arrivalsDuring(() => world.a.peer.tcp(address, 80))).toBe(0);
      }
    });
    expect(dropped).toBeGreaterThan(0);
  });
  it('is unreachable through another program’s address translation', async () => {
    await world.host.run(
      'nft',
      'add table ip other; add chain ip other pre { type nat hook prerouting priority -110; }; add rule ip other pre ip daddr 93.184.216.99 dnat to 169.254.169.254',
    );
    expect((await world.hostPeer.tcp('93.184.216.34', 80)).outcome).toBe('answer');
    const dropped = await dropsDuring(world.a, 'metadata', async () => {
      expect(await arrivalsDuring(() => world.a.peer.tcp('93.184.216.99', 80))).toBe(0);
    });
    expect(dropped).toBeGreaterThan(0);
    await world.host.run('nft', 'delete table ip other');
  });
});

describe('packet filter: the guest', () => {
  it('reaches the network with the address of the host', async () => {
    await begin({ mode: 'open' });
    expect(await world.a.peer.tcp('8.8.8.8', 80)).toEqual({ outcome: 'answer', seenAs: `::ffff:${UPLINK}` });
    expect(await world.a.peer.udp('8.8.8.8', 443)).toEqual({ outcome: 'answer', seenAs: UPLINK });
  });
  it('is dropped and counted with a foreign source address', async () => {
    const { namespace, peer } = world.a;
    for (const address of [world.b.lease.guestAddress, '8.8.4.4']) {
      await namespace.run('ip', 'address', 'add', `${address}/32`, 'dev', 'eth0');
      const dropped = await dropsDuring(world.a, 'spoofed', async () => {
        expect(await arrivalsDuring(() => peer.udp('8.8.8.8', 443, { from: address }))).toBe(0);
      });
      expect([address, dropped]).toEqual([address, 1]);
      await namespace.run('ip', 'address', 'del', `${address}/32`, 'dev', 'eth0');
    }
  });
  it('is dropped and counted with a foreign MAC', async () => {
    const { namespace, peer, lease } = world.a;
    const shown = await world.host.run('ip', '-j', 'link', 'show', lease.tap);
    const hostMac: string = JSON.parse(shown)[0].address;
    const neighbor = ['ip', 'neigh', 'replace', lease.hostAddress, 'lladdr', hostMac, 'dev', 'eth0'];
    await namespace.run('ip', 'link', 'set', 'eth0', 'address', world.b.lease.guestMac);
    await namespace.run(...neighbor, 'nud', 'permanent');
    const dropped = await dropsDuring(world.a, 'spoofed', async () => {
      expect(await arrivalsDuring(() => peer.udp('8.8.8.8', 443))).toBe(0);
    });
    expect(dropped).toBeGreaterThan(0);
    await namespace.run('ip', 'link', 'set', 'eth0', 'address', lease.guestMac);
    expect((await peer.udp('8.8.8.8', 443)).outcome).toBe('answer');
  });
  it('does not reach another guest, by its address or its gateway', async () => {
    await begin({ mode: 'open', allow: ['10.201.0.0/16'] });
    await world.b.peer.serve('udp', '0.0.0.0', 7000);
    const before = world.b.peer.arrivals.length;
    const dropped = await dropsDuring(world.a, 'guests', () => world.a.peer.udp(world.b.lease.guestAddress, 7000));
    expect(dropped).toBe(1);
    expect((await world.a.peer.tcp(world.b.lease.hostAddress, 2222)).outcome).toBe('ECONNREFUSED');
    await world.nft.apply(removeTable());
    expect((await world.a.peer.udp(world.b.lease.guestAddress, 7000)).outcome).toBe('answer');
    expect(world.b.peer.arrivals.length).toBe(before + 1);
  });
  it('reaches only declared ports of the host', async () => {
    await begin({ mode: 'open' }, { hostPorts: [{ protocol: 'udp', port: 123 }] });
    const host = world.a.lease.hostAddress;
    expect((await world.a.peer.udp(host, 53)).outcome).toBe('answer');
    expect((await world.a.peer.tcp(host, 53)).outcome).toBe('answer');
    expect((await world.a.peer.udp(host, 123)).outcome).toBe('answer');
    const dropped = await dropsDuring(world.a, 'undeclared', async () => {
      expect((await world.a.peer.tcp(host, 2222)).outcome).toBe('ECONNREFUSED');
      expect((await world.a.peer.tcp(UPLINK, 2222)).outcome).toBe('ECONNREFUSED');
      expect((await world.a.peer.tcp(UPLINK, 3128)).outcome).toBe('ECONNREFUSED');
    });
    expect(dropped).toBe(3);
    // The gateway's port accepts only redirected connections.
    expect((await world.a.peer.tcp(host, 3128)).outcome).toBe('ECONNREFUSED');
  });
  it('gets no connection from the network or the host', async () => {
    await world.a.peer.serve('tcp', '0.0.0.0', 9000);
    expect((await world.internet.tcp(world.a.lease.guestAddress, 9000)).outcome).not.toBe('answer');
    expect((await world.hostPeer.tcp(world.a.lease.guestAddress, 9000)).outcome).not.toBe('answer');
    expect(world.a.peer.arrivals.filter(({ port }) => port === 9000)).toEqual([]);
    expect((await world.traffic(world.a)).counts.unasked.packets).toBeGreaterThan(0);
    await world.nft.apply(removeTable());
    expect((await world.internet.tcp(world.a.lease.guestAddress, 9000)).outcome).toBe('answer');
  });
  it.each(['none', 'open'])(
    'accepts connections only from marked sockets of the host, under any policy (%s)',
    async (mode) => {
      const { guestAddress, hostAddress } = world.a.lease;
      await begin({ mode }, { limits: { bytesMax: 100_000 } });
      const port = mode === 'open' ? 9010 : 9011;
      await world.a.peer.serve('tcp', '0.0.0.0', port);
      const connect = { host: guestAddress, port };
      const unasked = async (): Promise<number> => (await world.traffic(world.a)).counts.unasked.packets;
      expect(await world.hostPeer.tell('marked', connect)).toEqual({ outcome: 'answer', seenAs: hostAddress });
      // No listener on that port: the guest refuses.
      expect(await world.hostPeer.tell('marked', { host: guestAddress, port: 9 })).toEqual({ outcome: 'ECONNREFUSED' });
      expect(await unasked()).toBe(0);
      const { counts, budgetBytesUsed } = await world.traffic(world.a);
      expect(counts.undeclared.packets).toBe(0);
      expect(budgetBytesUsed).toBe(counts.received.bytes + counts.host.bytes);
      expect((await world.hostPeer.tcp(guestAddress, port)).outcome).toBe('silence');
      expect((await world.internet.tcp(guestAddress, port)).outcome).toBe('silence');
      expect((await world.b.peer.tcp(guestAddress, port)).outcome).not.toBe('answer');
      expect(await unasked()).toBeGreaterThan(0);
      // The mark has no effect outside this host, or from another address of it.
      expect(await world.internet.tell('marked', connect)).not.toMatchObject({ outcome: 'answer' });
      expect(await world.b.peer.tell('marked', connect)).not.toMatchObject({ outcome: 'answer' });
      const answered = world.a.peer.arrivals.filter((each) => each.port === port);
      expect(answered.map(({ from }) => from)).toEqual([hostAddress]);
    },
  );
  it('has no neighbors: the network can’t reach its gateway, or spoof its address', async () => {
    const { hostAddress, guestAddress } = world.a.lease;
    await world.nft.apply(removeTable());
    const call = async (): Promise<string> => (await world.internet.tcp(hostAddress, 2222)).outcome;
    // On a busy machine an answer may come later than one try waits.
    await expect.poll(call).toBe('answer');
    await begin({ mode: 'open' });
    const outside = async (): Promise<number> => {
      const counter = ['counter', 'inet', 'neurovisor', 'outside'];
      const listed = await world.host.run('nft', 'list', ...counter);
      return Number(/packets (\d+)/.exec(listed)?.[1]);
    };
    expect(await outside()).toBe(0);
    expect(await call()).toBe('silence');
    const afterFirst = await outside();
    expect(afterFirst).toBeGreaterThan(0);
    const address = ['ip', 'address', 'replace', `${guestAddress}/32`, 'dev', 'lo'];
    await world.internetNamespace.run(...address);
    expect(await arrivalsDuring(() => world.internet.udp(UPLINK, 53, { from: guestAddress }))).toBe(0);
    await world.internetNamespace.run('ip', 'address', 'del', `${guestAddress}/32`, 'dev', 'lo');
    expect(await outside()).toBeGreaterThan(afterFirst);
  });
  it('counts each packet in exactly one counter', async () => {
    await begin({ mode: 'open', deny: ['1.1.1.1'] });
    const { peer, lease } = world.a;
    await peer.tcp('8.8.8.8', 80);
    await peer.tcp('1.1.1.1', 80);
    await peer.tcp(PRIVATE[0] ?? '', 80);
    await peer.udp(lease.hostAddress, 53);
    await peer.udp(lease.hostAddress, 4);
    await peer.udp('169.254.169.254', 80);
    const { counts } = await world.traffic(world.a);
    const { seen, sent, host, received } = counts;
    const drops = Object.keys(DROP_COUNTERS) as (keyof typeof DROP_COUNTERS)[];
    const dropped = drops.map((name) => counts[name].packets);
    expect(seen.packets).toBe(sent.packets + host.packets + dropped.reduce((x, y) => x + y, 0));
    expect(sent.bytes).toBeGreaterThan(0);
    expect(received.packets).toBeGreaterThan(0);
    expect(counts.denied.packets).toBe(1);
    expect(counts.private.packets).toBe(1);
    expect(counts.undeclared.packets).toBe(1);
    expect(counts.metadata.packets).toBe(1);
    expect((await world.traffic(world.b)).counts.sent.packets).toBe(0);
  });
});

describe('packet filter: policies', () => {
  it('open: no private range is reachable unless a block inside it is allowed', async () => {
    await begin(OPEN_TO_ALL);
    expect((await world.a.peer.tcp('10.50.0.1', 80)).outcome).toBe('ECONNREFUSED');
    await update({ mode: 'open', allow: ['10.50.0.0/24:80'] });
    expect((await world.a.peer.tcp('10.50.0.1', 80)).outcome).toBe('answer');
    expect((await world.a.peer.tcp('10.50.0.1', 443)).outcome).toBe('ECONNREFUSED');
    expect((await world.a.peer.tcp('192.168.77.1', 80)).outcome).toBe('ECONNREFUSED');
  });
  it('none: nothing leaves, DNS included', async () => {
    await begin({ mode: 'none' });
    const arrived = await arrivalsDuring(async () => {
      expect((await world.a.peer.tcp('8.8.8.8', 80)).outcome).toBe('ECONNREFUSED');
      await world.a.peer.udp('8.8.8.8', 53);
      await world.a.peer.udp(world.a.lease.hostAddress, 53);
    });
    expect(arrived).toBe(0);
  });
  it('allowlist: blocks pass, web traffic goes to the gateway, DNS to our resolver, the rest is refused', async () => {
    await begin({ mode: 'allowlist', allow: ['1.1.1.1', '93.184.216.34:8080', 'example.com'] });
    const { peer } = world.a;
    expect((await peer.tcp('1.1.1.1', 443)).seenAs).toBe(`::ffff:${UPLINK}`);
    expect((await peer.tcp('93.184.216.34', 8080)).seenAs).toBe(`::ffff:${UPLINK}`);
    const internet = world.internet.arrivals.length;
    // Answered by the host's programs on 3128 and 53, which see the guest itself.
    expect((await peer.tcp('8.8.8.8', 443)).seenAs).toBe(world.a.lease.guestAddress);
    expect((await peer.tcp('93.184.216.34', 80)).seenAs).toBe(world.a.lease.guestAddress);
    expect((await peer.udp('8.8.8.8', 53, { text: 'secret.evil.test' })).seenAs).toBe(world.a.lease.guestAddress);
    // The order of arrivals of different protocols is not defined.
    expect(world.hostPeer.arrivals.slice(-3)).toContainEqual(
      expect.objectContaining({ port: 53, text: 'secret.evil.test' }),
    );
    const dropped = await dropsDuring(world.a, 'unlisted', async () => {
      expect((await peer.tcp('8.8.8.8', 8080)).outcome).toBe('ECONNREFUSED');
      expect((await peer.udp('8.8.8.8', 443)).outcome).not.toBe('answer');
    });
    expect(dropped).toBe(2);
    expect(world.internet.arrivals.length).toBe(internet);
  });
  it('a pin opens one address, protocol and port until it expires, and a connection outlives it', async () => {
    await begin({ mode: 'allowlist', allow: ['db.example.com:5432'] });
    const { peer, lease } = world.a;
    const pin = { address: '8.8.8.8', protocol: 'tcp', port: 5432, seconds: 60 } as const;
    expect((await peer.tcp('8.8.8.8', 5432)).outcome).toBe('ECONNREFUSED');
    await world.nft.apply(addPins(lease.id, [pin]));
    expect((await peer.tcp('8.8.8.8', 5432)).outcome).toBe('answer');
    expect((await peer.tcp('1.1.1.1', 5432)).outcome).toBe('ECONNREFUSED');
    expect((await peer.tcp('8.8.8.8', 8080)).outcome).toBe('ECONNREFUSED');
    expect((await world.b.peer.tcp('8.8.8.8', 5432)).outcome).toBe('ECONNREFUSED');
    const hold = { host: '8.8.8.8', port: 5432, waitMs: 2000 };
    expect(await peer.tell('hold', hold)).toEqual({ outcome: 'answer' });
    // The same pin with an earlier expiry replaces the first, which would still be valid.
    await world.nft.apply(addPins(lease.id, [{ ...pin, seconds: 1 }]));
    await expect.poll(async () => (await peer.tcp('8.8.8.8', 5432)).outcome).toBe('ECONNREFUSED');
    expect(await peer.tell('poke', { waitMs: 2000 })).toEqual({ outcome: 'answer' });
  });
  it('an update affects open connections, keeps counters, and leaves other sandboxes alone', async () => {
    await begin({ mode: 'open' });
    const hold = { host: '8.8.8.8', port: 8080, waitMs: 2000 };
    expect(await world.a.peer.tell('hold', hold)).toEqual({ outcome: 'answer' });
    expect(await world.b.peer.tell('hold', hold)).toEqual({ outcome: 'answer' });
    const { sent } = (await world.traffic(world.a)).counts;
    await update({ mode: 'open', deny: ['8.8.8.0/24'] });
    expect(await world.a.peer.tell('poke', { waitMs: 2000 })).toEqual({ outcome: 'ECONNRESET' });
    expect(await world.b.peer.tell('poke', { waitMs: 2000 })).toEqual({ outcome: 'answer' });
    const after = (await world.traffic(world.a)).counts;
    expect(after.sent.packets).toBeGreaterThanOrEqual(sent.packets);
    expect(after.denied.packets).toBeGreaterThan(0);
    await update({ mode: 'open' });
    expect((await world.a.peer.tcp('8.8.8.8', 8080)).outcome).toBe('answer');
  });
});

describe('packet filter: the table', () => {
  const listOthers = async (): Promise<string> =>
    (await world.host.run('nft', 'list table ip docker')) +
    (await world.host.run('nft', 'list table inet neurovisor2'));

  it('comes and goes while other programs’ tables stay byte for byte', async () => {
    await world.nft.apply(removeTable());
    await world.host.run(
      'nft',
      'add table ip docker; add chain ip docker f { type filter hook forward priority 10; policy accept; }; add set ip docker s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; }; add rule ip docker f ip saddr @s drop; add table inet neurovisor2; add chain inet neurovisor2 from_x',
    );
    const before = await listOthers();
    await begin({ mode: 'open' });
    await update({ mode: 'allowlist', allow: ['1.1.1.1'] });
    await world.nft.apply(removeSandbox(world.a.lease));
    await world.nft.apply(addSandbox(networkOf(world.a, { mode: 'open' })));
    await world.nft.apply(wholeTable([]));
    expect(await listOthers()).toBe(before);
    await world.nft.apply(removeTable());
    await world.nft.apply(removeTable());
    expect(await listOthers()).toBe(before);
    expect(await world.nft.listTable()).toBeUndefined();
    await world.host.run('nft', 'delete table ip docker; delete table inet neurovisor2');
    expect(await world.host.run('nft', 'list ruleset')).toBe('');
  });
  it('removing a sandbox removes all its rules, and blocks its TAP', async () => {
    await world.nft.apply(wholeTable([]));
    // Without counts: the kernel's own packets (neighbor discovery) may be counted as unknown at any time.
    const rules = async () => (await world.host.run('nft', 'list', 'ruleset')).replaceAll(/packets \d+ bytes \d+/g, '');
    const empty = await rules();
    await world.nft.apply(addSandbox(networkOf(world.a, { mode: 'allowlist', allow: ['1.1.1.1', '*.a.test:99'] })));
    await world.nft.apply(addPins(world.a.lease.id, [{ address: '8.8.8.8', protocol: 'tcp', port: 99, seconds: 60 }]));
    expect((await world.a.peer.tcp('1.1.1.1', 80)).outcome).toBe('answer');
    await world.nft.apply(removeSandbox(world.a.lease));
    expect(await rules()).toBe(empty);
    expect(await arrivalsDuring(() => world.a.peer.tcp('1.1.1.1', 80))).toBe(0);
    const counters = await world.host.run('nft', 'list', 'counter', 'inet', 'neurovisor', 'unknown');
    expect(counters).not.toContain('packets 0 ');
  });
  it('a transaction is applied whole or not at all', async () => {
    await begin({ mode: 'open' });
    const before = await world.nft.listTable();
    const twice = [...removeSandbox(world.a.lease), ...removeSandbox(world.a.lease)];
    await expect(world.nft.apply(twice)).rejects.toMatchObject({ code: 'nft_refused' });
    expect(await world.nft.listTable()).toEqual(before);
  });
  it('accepts 200 sandboxes with every kind of policy', async () => {
    const plan = new AddressPlan();
    const policies: EgressPolicyText[] = [
      { mode: 'open' },
      { mode: 'open', deny: ['*.evil.test', '8.8.8.8:1-100', '8.8.0.0/16:50-60/udp'] },
      { mode: 'allowlist', allow: ['10.0.0.0/8:80-90', '10.1.0.0/16:85-100', '0.0.0.0/0:443', '9.9.9.9'] },
      { mode: 'none' },
      { mode: 'allowlist', allow: Array.from({ length: 256 }, (_, i) => `8.${i}.0.0/17:${i + 1}`) },
    ];
    const networks = Array.from(
      { length: 200 },
      (_, i): ChainInput => ({
        lease: plan.lease(newSandboxId()),
        policy: parsePolicy(policies[i % policies.length] ?? { mode: 'none' }),
        dnsPort: 53,
        gatewayPort: 3128,
        limits: { bytesMax: 1e9, uploadBytesPerSecond: 1e6, downloadBytesPerSecond: 1e6 },
      }),
    );
    await world.nft.apply(wholeTable([]));
    // The kernel's own packets (neighbor discovery) may be counted at any time.
    const ruleset = async (): Promise<string> =>
      (await world.host.run('nft', 'list', 'ruleset')).replaceAll(/packets \d+ bytes \d+/g, '');
    const empty = await ruleset();
    await world.nft.apply(networks.flatMap(addSandbox));
    const traffic = readTraffic(await world.nft.listTraffic());
    expect(new Set(traffic.keys())).toEqual(new Set(networks.map(({ lease }) => lease.id)));
    for (const [i, one] of networks.slice(0, 20).entries()) {
      const policy = parsePolicy(policies[(i + 1) % policies.length] ?? { mode: 'none' });
      await world.nft.apply(updateSandbox({ ...one, policy }, []));
    }
    await world.nft.apply(wholeTable(networks));
    await world.nft.apply(networks.flatMap(({ lease }) => removeSandbox(lease)));
    expect(await ruleset()).toBe(empty);
  });
});

describe('Nft', () => {
  it('nft_missing: names the package to install', async () => {
    const nft = new Nft({ command: ['nft-that-is-not-there'] });
    await expect(nft.apply(removeTable())).rejects.toMatchObject({
      code: 'nft_missing',
      remedy: expect.stringContaining('apt install nftables'),
    });
  });
  it('nft_not_permitted: has a remedy', async () => {
    const nobody = ['setpriv', '--reuid', '65534', '--clear-groups', 'nft'];
    const nft = new Nft({ command: [...world.host.enter, ...nobody] });
    await expect(nft.apply(removeTable())).rejects.toMatchObject({
      code: 'nft_not_permitted',
      remedy: expect.stringContaining('root'),
    });
    await expect(nft.listTraffic()).rejects.toMatchObject({ code: 'nft_not_permitted' });
  });
  it('nft_refused: has the text of nft', async () => {
    await expect(world.nft.apply([{ add: { nonsense: {} } }])).rejects.toMatchObject({
      code: 'nft_refused',
      cause: { message: expect.stringContaining('Error') },
    });
  });
  it('nft_failed: a program that does not end, or prints too much', async () => {
    const slow = new Nft({ command: ['sh', '-c', 'exec sleep 1000'], runMsMax: 50 });
    await expect(slow.apply(removeTable())).rejects.toMatchObject({ code: 'nft_failed' });
    const loud = new Nft({ command: ['sh', '-c', 'exec cat /dev/zero'] });
    await expect(loud.listTraffic()).rejects.toMatchObject({ code: 'nft_failed' });
  });
  it('control: the namespace of this machine is untouched', async () => {
    // The machine may have a table for its own sandboxes, but without these two.
    const { stdout } = await promisify(execFile)('nft', ['list', 'ruleset']);
    for (const { lease } of [world.a, world.b]) expect(stdout).not.toContain(lease.tap);
  });
});
