import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import type { BytesByName, DestinationUse } from '../../egress/net/policy/destination-budgets.ts';
import type { Guest, GuestChange } from '../../machine/guest/link.ts';
import type { NicSpec, Vm } from '../../machine/vmm/driver.ts';
import type { NetworkSpec } from '../contract/network-spec.ts';
import type { CardLease } from '../contract/parts.ts';
import { NetworkCard, NO_TRAFFIC } from './network-card.ts';

const LIST: NetworkSpec = { policy: { mode: 'allowlist', allow: [], deny: [] }, limits: {} };
const OPEN: NetworkSpec = { policy: { mode: 'open', allow: [], deny: [] }, limits: {} };
const SETTINGS = {
  mac: 'aa:fc:00:00:00:01',
  address: '10.0.0.2',
  prefixLength: 30,
  gateway: '10.0.0.1',
  gatewayMac: 'aa:fd:00:00:00:01',
  mtu: 1500,
};

/** Records all steps in order; the step named `fail` fails. */
function world(fail?: string) {
  const done: string[] = [];
  const step = async (name: string): Promise<void> => {
    done.push(name);
    if (name === fail) throw new Error(`${name} failed`);
  };
  const traffic = { packetsIn: 1, packetsOut: 1, bytesIn: 40, bytesOut: 2, refused: {}, bytesUsed: 42 };
  const destinations: DestinationUse[] = [];
  const lease: CardLease = {
    tapFd: 9,
    connect: () => Promise.reject(new Error('no guest here')),
    guest: SETTINGS,
    confirmHandover: () => step('handed over'),
    lend: (_vmm, open) => open('tap0'),
    setPolicy: ({ mode }) => step(`policy ${mode}`),
    setSecrets: () => step('secrets'),
    trust: undefined,
    gatewayUse: () => ({ allowed: 1, refused: {}, destinations }),
    traffic: async () => {
      await step('count');
      return traffic;
    },
    release: () => step('release'),
  };
  const vm = {
    nicHotplug: { plugNic: ({ tapFd, mac }: NicSpec) => step(`plug ${tapFd} ${mac}`), unplugNic: () => step('unplug') },
  } as unknown as Vm;
  const guest = {
    update: ({ network }: GuestChange) => step(`tell ${network?.address ?? network}`),
  } as unknown as Guest;
  const clock = new FakeClock();
  const leased: BytesByName[] = [];
  const granted = Promise.withResolvers<void>();
  const card = new NetworkCard('one', {
    clock,
    leaseNetwork: async (_id, { policy: { mode }, bytesUsed, destinationBytesUsed = {} }) => {
      leased.push(destinationBytesUsed);
      await step(bytesUsed === 0 ? `lease ${mode}` : `lease ${mode} ${bytesUsed}`);
      if (fail === 'late') await granted.promise;
      return lease;
    },
  });
  return { card, vm, guest, done, clock, granted, destinations, leased };
}
const PLUG = `plug 9 ${SETTINGS.mac}`;

describe('NetworkCard', () => {
  it('set: plugs a card, changes its policy and unplugs it, in the right order', async () => {
    const { card, vm, guest, done } = world();
    await card.set(null, vm, guest);
    expect(done.splice(0)).toEqual([]);
    await card.set(LIST, vm, guest);
    expect(card.settings).toEqual(SETTINGS);
    expect(done.splice(0)).toEqual(['lease allowlist', PLUG, 'handed over', 'tell 10.0.0.2']);
    await card.set(OPEN, vm, guest);
    expect(done.splice(0)).toEqual(['policy open']);
    await card.set(null, vm, guest);
    expect(done.splice(0)).toEqual(['policy none', 'tell null', 'unplug', 'release']);
    expect(card.settings).toBeUndefined();
    await card.release();
    expect(done).toEqual([]);
  });

  it('bind: an existing card gets secrets before the policy; a missing one is plugged', async () => {
    const there = world();
    await there.card.lease(NO_TRAFFIC);
    expect(there.done.splice(0)).toEqual(['lease none']);
    await there.card.bind(LIST, there.vm, { secrets: [] });
    expect(there.done).toEqual(['secrets', 'policy allowlist']);
    expect(there.card.network).toEqual(LIST);
    const missing = world();
    await missing.card.bind(LIST, missing.vm, { secrets: [] });
    expect(missing.done).toEqual(['lease allowlist', PLUG, 'handed over']);
  });

  it.each([PLUG, 'handed over', 'tell 10.0.0.2'])('set: after "%s" has failed, nothing is left', async (what) => {
    const { card, vm, guest, done } = world(what);
    await expect(card.set(LIST, vm, guest)).rejects.toThrow(`${what} failed`);
    expect(done.slice(-2)).toEqual(['unplug', 'release']);
    expect(card.settings).toBeUndefined();
  });

  it.each(['tell null', 'unplug'])(
    'set: a guest that does not release its card reaches nothing ("%s")',
    async (what) => {
      const { card, vm, guest, done } = world(what);
      await card.set(LIST, vm, guest);
      await expect(card.set(null, vm, guest)).rejects.toThrow(`${what} failed`);
      expect(done).toContain('policy none');
      expect(card.network?.policy.mode).toBe('none');
      expect(card.settings).toEqual(SETTINGS);
    },
  );

  it('set: without hotplug the card stays, and lets nothing through', async () => {
    const { card, guest, done } = world();
    const vm = {} as Vm;
    await expect(card.set(LIST, vm, guest)).rejects.toMatchObject({
      code: 'network_unavailable',
      remedy: expect.stringContaining('start it with a network'),
    });
    expect(card.network).toBeNull();
    await card.lease(LIST);
    done.splice(0);
    await card.set(null, vm, guest);
    expect(done).toEqual(['policy none']);
    expect(card.network?.policy.mode).toBe('none');
    expect(card.settings).toEqual(SETTINGS);
  });

  it('set: a refused policy leaves the card unchanged', async () => {
    const { card, vm, guest } = world('policy open');
    await card.set(LIST, vm, guest);
    await expect(card.set(OPEN, vm, guest)).rejects.toThrow('policy open');
    expect(card.network).toEqual(LIST);
    expect(card.settings).toEqual(SETTINGS);
  });

  it('networkToKeep: used bytes carry over to the next card and the next VM', async () => {
    const { card, vm, guest, done } = world();
    const limited = { ...LIST, limits: { bytesMax: 100 } };
    await card.set({ ...limited, bytesUsed: 7 }, vm, guest);
    expect(done.splice(0)[0]).toBe('lease allowlist 7');
    expect(card.network).toEqual(limited);
    expect(await card.networkToKeep()).toEqual({ ...limited, bytesUsed: 42 });
    expect(done.splice(0)).toEqual(['count']);
    await card.set(null, vm, guest);
    expect(done.splice(0)).toEqual(['policy none', 'tell null', 'unplug', 'count', 'release']);
    await card.set(limited, vm, guest);
    expect(done[0]).toBe('lease allowlist 42');
  });

  it('networkToKeep: used bytes by name carry over, too', async () => {
    const { card, vm, guest, destinations, leased } = world();
    const limits = { destinations: [{ name: 'a.example', bytesMax: 100 }] };
    const limited = { ...LIST, limits, destinationBytesUsed: { 'a.example': 7 } };
    await card.set(limited, vm, guest);
    destinations.push({ name: 'a.example', bytesMax: 100, bytesUsed: 30 });
    expect((await card.networkToKeep())?.destinationBytesUsed).toEqual({ 'a.example': 30 });
    await card.set(null, vm, guest);
    await card.set({ ...LIST, limits }, vm, guest);
    expect(leased).toEqual([{ 'a.example': 7 }, { 'a.example': 30 }]);
  });

  it('networkToKeep: if counters can not be read, the last count stays', async () => {
    const { card, vm, guest } = world('count');
    const limited = { ...LIST, limits: { bytesMax: 100 }, bytesUsed: 7 };
    await card.set(limited, vm, guest);
    expect(await card.networkToKeep()).toEqual(limited);
  });

  it('release: a lease that arrives after the end is released', async () => {
    const { card, done, granted } = world('late');
    const leasing = card.lease(LIST);
    await card.release();
    granted.resolve();
    await expect(leasing).rejects.toMatchObject({ code: 'gone' });
    expect(done).toEqual(['lease allowlist', 'release']);
  });

  it('lease: network_unavailable on a host without networks', async () => {
    const card = new NetworkCard('one', { clock: new FakeClock() });
    await expect(card.lease(LIST)).rejects.toMatchObject({ code: 'network_unavailable' });
  });

  it('bytes: cached for half a minute, per lease', async () => {
    const { card, vm, guest, done, clock } = world();
    expect(await card.bytes()).toBe(0);
    await card.set(LIST, vm, guest);
    done.splice(0);
    expect(await card.bytes()).toBe(42);
    expect(await card.bytes()).toBe(42);
    clock.advance(30_000);
    await card.bytes();
    expect(done).toEqual(['count', 'count']);
  });
});
