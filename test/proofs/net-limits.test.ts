/** Limits of a sandbox's network against the real kernel, checked by counted bytes and packets. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { updateSandbox, wholeTable } from '../../src/egress/net/nftables/ruleset.ts';
import type { ChainInput, KeptChain } from '../../src/egress/net/nftables/sandbox-chains.ts';
import type { EgressPolicyText } from '../../src/egress/net/policy/egress-rules.ts';
import { createWorld, networkOf, type World } from '../support/ruleset-world.ts';

let world: World;

beforeAll(async () => {
  world = await createWorld();
});
afterAll(() => world[Symbol.asyncDispose]());

/** Creates a new table with both guests under the same limits. */
const begin = (policy: EgressPolicyText, more: Partial<ChainInput> = {}): Promise<void> =>
  world.nft.apply(wholeTable([world.a, world.b].map((guest) => networkOf(guest, policy, more))));
const update = (
  policy: EgressPolicyText,
  more: Partial<ChainInput> = {},
  renewed: readonly KeptChain[] = [],
): Promise<void> => world.nft.apply(updateSandbox(networkOf(world.a, policy, more), [], renewed));

describe('packet filter: limits', () => {
  const BUDGET = 300_000;
  /** The largest packet of a TAP with offloads. */
  const PACKET = 65_536;
  /** Number of connections refused by the limit while `act` runs. */
  async function refusedDuring(act: () => Promise<void>): Promise<number> {
    const read = async (): Promise<number> => (await world.traffic(world.a)).counts.connections.packets;
    const before = await read();
    await act();
    return (await read()) - before;
  }
  const passed = async (): Promise<number> => {
    const { sent, host, received } = (await world.traffic(world.a)).counts;
    return sent.bytes + host.bytes + received.bytes;
  };

  it('a budget ends at its byte and resets the sender; a larger one lets traffic continue', async () => {
    await begin({ mode: 'open' }, { limits: { bytesMax: BUDGET } });
    const pump = { host: '8.8.8.8', port: 8080, bytes: 2_000_000, waitMs: 30_000 };
    expect(await world.a.peer.tell('pump', pump)).toMatchObject({ outcome: 'ECONNRESET' });
    // Packets that only end connections still pass.
    const slack = 10 * 40;
    expect(await passed()).toBeLessThanOrEqual(BUDGET + slack);
    expect(await passed()).toBeGreaterThan(BUDGET - PACKET);
    expect((await world.a.peer.tcp('8.8.8.8', 80)).outcome).toBe('ECONNREFUSED');
    expect((await world.a.peer.udp(world.a.lease.hostAddress, 53)).outcome).toMatch(/^E/);
    const { counts, budgetBytesUsed } = await world.traffic(world.a);
    expect(counts.budget.packets).toBeGreaterThan(0);
    expect(budgetBytesUsed).toBe(BUDGET);
    expect((await world.b.peer.tcp('8.8.8.8', 80)).outcome).toBe('answer');
    const more = { limits: { bytesMax: 2 * BUDGET }, bytesUsed: BUDGET };
    await update({ mode: 'open' }, more, ['spent']);
    expect((await world.a.peer.tcp('8.8.8.8', 80)).outcome).toBe('answer');
    // Refused traffic does not count as used. The server of the first connection, whose client is gone, may send one
    // segment again, which now passes.
    const segment = 1500 + 40;
    const used = (await world.traffic(world.a)).budgetBytesUsed;
    expect(used).toBeGreaterThan(BUDGET);
    expect(used).toBeLessThan(BUDGET + 2000 + segment);
  });
  it('a client that only reads is reset at the end of the budget', async () => {
    await world.internet.tell('serveFlood', { host: '0.0.0.0', port: 9100 });
    await begin({ mode: 'open' }, { limits: { bytesMax: BUDGET } });
    const drink = { host: '8.8.8.8', port: 9100, waitMs: 30_000 };
    const { received, outcome } = await world.a.peer.tell<{ received: number; outcome: string }>('drink', drink);
    expect(outcome).toBe('ECONNRESET');
    expect(received).toBeLessThan(BUDGET);
    expect(await passed()).toBeLessThanOrEqual(BUDGET + 10 * 40);
  });
  it('an idle client is reset by the next packet after the end of the budget', async () => {
    await world.internet.tell('serveLate', { host: '0.0.0.0', port: 9101 });
    await begin({ mode: 'open' }, { limits: { bytesMax: BUDGET } });
    const hold = { host: '8.8.8.8', port: 9101, waitMs: 5000 };
    expect(await world.a.peer.tell('hold', hold)).toEqual({ outcome: 'answer' });
    const pump = { host: '8.8.8.8', port: 8080, bytes: 2_000_000, waitMs: 30_000 };
    expect(await world.a.peer.tell('pump', pump)).toMatchObject({ outcome: 'ECONNRESET' });
    const heard = world.a.peer.tell('listenHeld', { waitMs: 10_000 });
    await world.internet.tell('shout', {});
    expect(await heard).toEqual({ outcome: 'ECONNRESET' });
  });
  it('earlier usage counts, and an update keeps usage', async () => {
    await begin({ mode: 'open' }, { limits: { bytesMax: BUDGET }, bytesUsed: BUDGET });
    expect((await world.a.peer.tcp('8.8.8.8', 80)).outcome).toBe('ECONNREFUSED');
    await update({ mode: 'open', deny: ['1.1.1.1'] }, { limits: { bytesMax: BUDGET } });
    expect((await world.traffic(world.a)).budgetBytesUsed).toBe(BUDGET);
    expect((await world.a.peer.tcp('8.8.8.8', 80)).outcome).toBe('ECONNREFUSED');
  });
  it.each([
    ['upload', { uploadBytesPerSecond: 500_000 }],
    ['download', { downloadBytesPerSecond: 500_000 }],
  ] as const)('%s: no more bytes pass than the rate allows in that time', async (_, limits) => {
    await begin({ mode: 'open' }, { limits });
    const bytes = 3_000_000;
    const pump = { host: '8.8.8.8', port: 8080, bytes, waitMs: 100_000 };
    const began = performance.now();
    const { received } = await world.a.peer.tell<{ received: number }>('pump', pump);
    const seconds = (performance.now() - began) / 1000;
    expect(received).toBeGreaterThanOrEqual(bytes);
    const { sent, received: got, rate } = (await world.traffic(world.a)).counts;
    expect(rate.packets).toBeGreaterThan(0);
    // A slow machine only sends less. The bucket holds one second at the rate, plus a burst.
    const most = 500_000 * (seconds + 1) + 128 * 1024 + PACKET;
    expect('uploadBytesPerSecond' in limits ? sent.bytes : got.bytes).toBeLessThanOrEqual(most);
    expect(seconds).toBeGreaterThan((bytes - 500_000 - 128 * 1024 - PACKET) / 500_000);
  });
  it('a connection beyond the limit is refused and others continue, also after an update', async () => {
    const limits = { connectionsMax: 5 };
    await begin({ mode: 'open' }, { limits });
    const five = { host: '8.8.8.8', port: 8080, count: 5, waitMs: 5000 };
    expect(await world.a.peer.tell('holdMany', five)).toEqual({ outcomes: Array(5).fill('answer') });
    const refused = await refusedDuring(async () => {
      expect((await world.a.peer.tcp('8.8.8.8', 80)).outcome).toBe('ECONNREFUSED');
      // Connections to the host count, except queries to our resolver.
      expect((await world.a.peer.tcp(world.a.lease.hostAddress, 2222)).outcome).toBe('ECONNREFUSED');
      expect((await world.a.peer.tcp(world.a.lease.hostAddress, 53)).outcome).toBe('answer');
      expect((await world.a.peer.udp('8.8.8.8', 443)).outcome).toMatch(/^E/);
    });
    expect(refused).toBe(3);
    expect((await world.b.peer.tcp('8.8.8.8', 80)).outcome).toBe('answer');
    await update({ mode: 'open', deny: ['1.1.1.1'] }, { limits });
    expect((await world.a.peer.tcp('8.8.8.8', 80)).outcome).toBe('ECONNREFUSED');
    expect(await world.a.peer.tell('pokeMany', { waitMs: 5000 })).toEqual({ outcomes: Array(5).fill('answer') });
    await update({ mode: 'open' }, { limits: { connectionsMax: 20 } }, ['conns']);
    expect((await world.a.peer.tcp('8.8.8.8', 80)).outcome).toBe('answer');
    await world.a.peer.tell('dropMany', {});
  });
  it('a flood of lookups is dropped beyond its rate, and its neighbor is still answered', async () => {
    await begin({ mode: 'open' });
    const host = world.a.lease.hostAddress;
    const began = performance.now();
    await world.a.peer.tell('floodUdp', { host, port: 53, count: 10_000 });
    const { counts } = await world.traffic(world.a);
    const seconds = (performance.now() - began) / 1000;
    // A slow machine only sends less at once.
    expect(counts.host.packets).toBeLessThanOrEqual(800 + 400 * (seconds + 1));
    expect(counts.rate.packets).toBeGreaterThan(0);
    expect((await world.b.peer.udp(world.b.lease.hostAddress, 53)).outcome).toBe('answer');
  });
});
