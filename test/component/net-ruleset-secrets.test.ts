/** Traffic that the packet filter redirects to the gateway for secrets, against the real kernel. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { updateSandbox, wholeTable } from '../../src/egress/net/nftables/ruleset.ts';
import type { ChainInput } from '../../src/egress/net/nftables/sandbox-chains.ts';
import type { EgressPolicyText } from '../../src/egress/net/policy/egress-rules.ts';
import { createWorld, networkOf, PRIVATE, PUBLIC, type World } from '../support/ruleset-world.ts';

let world: World;
beforeAll(async () => {
  world = await createWorld();
});
afterAll(() => world[Symbol.asyncDispose]());

const begin = (policy: EgressPolicyText): Promise<void> => world.nft.apply(wholeTable([networkOf(world.a, policy)]));
const update = (policy: EgressPolicyText, more: Partial<ChainInput>): Promise<void> =>
  world.nft.apply(updateSandbox(networkOf(world.a, policy, more), []));

describe('packet filter: secrets', () => {
  const [address = ''] = PUBLIC;
  const atGateway = async (port: number, to = address): Promise<boolean> => {
    const before = world.hostPeer.arrivals.filter((one) => one.port === 3128).length;
    await world.a.peer.tcp(to, port);
    return world.hostPeer.arrivals.filter((one) => one.port === 3128).length > before;
  };

  it('open: only TCP 443 goes to the gateway, and QUIC is refused', async () => {
    await begin({ mode: 'open' });
    expect([await atGateway(443), await atGateway(80)]).toEqual([false, false]);
    expect((await world.a.peer.udp(address, 443)).outcome).toBe('answer');
    await update({ mode: 'open' }, { decryptsTls: true });
    expect([await atGateway(443), await atGateway(80), await atGateway(8080)]).toEqual([true, false, false]);
    expect((await world.a.peer.udp(address, 443)).outcome).not.toBe('answer');
    expect((await world.a.peer.tcp(address, 80)).outcome).toBe('answer');
  });
  it('TCP 443 to allowed blocks goes to the gateway, even private ones; to refused ones it does not', async () => {
    const [inside = '', other = ''] = PRIVATE;
    const policy = { mode: 'allowlist', allow: [`${address}/32`, `${inside}/32`] };
    await begin(policy);
    expect([await atGateway(443), await atGateway(443, inside)]).toEqual([false, false]);
    await update(policy, { decryptsTls: true });
    expect([await atGateway(443), await atGateway(443, inside)]).toEqual([true, true]);
    expect([await atGateway(8080), await atGateway(443, other)]).toEqual([false, false]);
    await update({ mode: 'none' }, { decryptsTls: true });
    expect(await atGateway(443)).toBe(false);
  });
});
