/** Bypasses of resolver and gateway, and connections of previous owners, against the real kernel. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { newSandboxId } from '../../src/base/ids.ts';
import { addSandbox, removeSandbox, updateSandbox, wholeTable } from '../../src/egress/net/nftables/ruleset.ts';
import type { ChainInput } from '../../src/egress/net/nftables/sandbox-chains.ts';
import { type EgressPolicyText, parsePolicy } from '../../src/egress/net/policy/egress-rules.ts';
import { createWorld, type Guest, HOST_PUBLIC, UPLINK, type World } from '../support/ruleset-world.ts';

let world: World;

beforeAll(async () => {
  world = await createWorld();
});
afterAll(() => world[Symbol.asyncDispose]());

const network = (guest: Guest, policy: EgressPolicyText): ChainInput => ({
  lease: guest.lease,
  policy: parsePolicy(policy),
  dnsPort: 53,
  gatewayPort: 3128,
});
const begin = (policy: EgressPolicyText): Promise<void> => world.nft.apply(wholeTable([network(world.a, policy)]));
const update = (policy: EgressPolicyText): Promise<void> =>
  world.nft.apply(updateSandbox(network(world.a, policy), []));

describe('packet filter: the guest', () => {
  it('inherits no connection of the previous owner of its address', async () => {
    await begin({ mode: 'open' });
    const { peer, lease } = world.a;
    const hold = { host: '8.8.8.8', port: 8080, waitMs: 2000 };
    expect(await peer.tell('hold', hold)).toEqual({ outcome: 'answer' });
    await peer.udp('8.8.8.8', 9000, { fromPort: 40_000 });
    await peer.serve('udp', '0.0.0.0', 40_000);
    const answer = (): Promise<{ outcome: string }> =>
      world.internet.udp(UPLINK, 40_000, { from: '8.8.8.8', fromPort: 9000 });
    expect((await answer()).outcome).toBe('answer');
    const next = { ...world.a, lease: { ...lease, id: newSandboxId() } };
    await world.nft.apply([...removeSandbox(lease), ...addSandbox(network(next, { mode: 'open' }))]);
    expect((await answer()).outcome).toBe('silence');
    expect((await world.traffic(next)).counts.unasked.packets).toBeGreaterThan(0);
    expect((await peer.tell<{ outcome: string }>('poke', { waitMs: 1000 })).outcome).not.toBe('answer');
    expect((await peer.tcp('8.8.8.8', 8080)).outcome).toBe('answer');
    await begin({ mode: 'open' });
  });
});

describe('packet filter: policies', () => {
  it.each<EgressPolicyText>([
    { mode: 'allowlist', allow: ['example.com'] },
    { mode: 'open', deny: ['evil.test'] },
    { mode: 'open' },
  ])('a guest reaches no web server on the host’s public address: %j', async (policy) => {
    expect((await world.hostPeer.tcp(HOST_PUBLIC, 80)).outcome).toBe('answer');
    await begin(policy);
    for (const port of [80, 443]) {
      expect((await world.a.peer.tcp(HOST_PUBLIC, port)).outcome).toBe('ECONNREFUSED');
    }
    expect((await world.traffic(world.a)).counts.undeclared.packets).toBe(2);
  });
  it.each<EgressPolicyText>([
    { mode: 'open' },
    { mode: 'open', deny: ['evil.test'] },
    { mode: 'allowlist', allow: ['8.8.8.8'] },
  ])('other resolvers are blocked, whatever a rule allows: %j', async (policy) => {
    await begin(policy);
    const { peer, lease } = world.a;
    await world.internet.serve('tcp', '8.8.8.8', 853).catch(() => 'is served');
    for (const seen of [await peer.udp('8.8.8.8', 53), await peer.tcp('8.8.8.8', 53)]) {
      expect(seen.seenAs?.replace('::ffff:', '')).toBe(lease.guestAddress);
    }
    expect((await peer.tcp('8.8.8.8', 853)).outcome).toBe('ECONNREFUSED');
    expect((await peer.udp('8.8.8.8', 853)).outcome).not.toBe('answer');
  });
  it.each<EgressPolicyText>([
    { mode: 'open', deny: ['evil.test'] },
    { mode: 'open', allow: ['8.8.8.0/24'], deny: ['evil.test'] },
    { mode: 'allowlist', allow: ['8.8.8.0/24'], deny: ['evil.test'] },
  ])('denying names ends older connections: %j', async (policy) => {
    await begin({ mode: 'open' });
    const { peer } = world.a;
    const hold = { host: '8.8.8.8', port: 80, waitMs: 2000 };
    expect(await peer.tell('hold', hold)).toEqual({ outcome: 'answer' });
    await update(policy);
    expect(await peer.tell('poke', { waitMs: 2000 })).toEqual({ outcome: 'ECONNRESET' });
    // Answered by the gateway.
    expect((await peer.tcp('8.8.8.8', 80)).seenAs?.replace('::ffff:', '')).toBe(world.a.lease.guestAddress);
    expect((await peer.udp('8.8.8.8', 443)).outcome).not.toBe('answer');
    expect((await peer.tcp('8.8.8.8', 8080)).outcome).toBe('answer');
  });
  it('with denied names, an allowed private block goes to the gateway, others are refused', async () => {
    await begin({ mode: 'open', allow: ['10.50.0.0/24'], deny: ['evil.test'] });
    expect((await world.a.peer.tcp('10.50.0.1', 80)).seenAs?.replace('::ffff:', '')).toBe(world.a.lease.guestAddress);
    expect((await world.a.peer.tcp('192.168.77.1', 80)).outcome).toBe('ECONNREFUSED');
  });
});
