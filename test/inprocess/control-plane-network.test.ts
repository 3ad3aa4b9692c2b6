/** Networks over the life of a sandbox. No VMs. */
import { describe, expect, it } from 'vitest';
import { CertificateAuthority } from '../../src/egress/net/secret/authority.ts';
import { SandboxError } from '../../src/sandbox/contract/errors.ts';
import type { NetworkOptions } from '../../src/sandbox/contract/network-spec.ts';
import { REFILL_DELAY_MS } from '../../src/sandbox/start/pools.ts';
import { FakeHost } from '../support/fake-host.ts';
import { requireNothing } from '../support/fake-leftovers.ts';
import { temporaryDir } from '../support/store.ts';

const network: NetworkOptions = { mode: 'allowlist', allow: ['a.example'] };
const REFUSED = new SandboxError('network_unavailable', 'no addresses are left');
const held = async (host: FakeHost): Promise<number> => (await host.holdings())['networks'] ?? 0;

async function fillPool(host: FakeHost, members: number, spec: { readonly card?: boolean } = {}): Promise<void> {
  await host.control.setPool({ min: members, max: members }, spec);
  // Delay of a refill after a claim.
  host.clock.advance(REFILL_DELAY_MS);
  await expect.poll(async () => (await host.control.pools())[0]?.ready).toBe(members);
}

describe('LocalControlPlane: networks', () => {
  it('create: no network by default; a requested one lives as long as the sandbox, and is public', async () => {
    await using host = await FakeHost.open();
    const plain = await host.control.create({});
    expect(plain.network).toBeNull();
    expect([host.vm(plain.id).nic, await held(host)]).toEqual([null, 0]);
    const { id, network: told } = await host.control.create({ network });
    expect(told).toEqual({
      ...network,
      deny: [],
      limits: {},
      address: expect.stringMatching(/^10\./),
      gatewayUse: { allowed: 0, refused: {}, destinations: [] },
    });
    expect([host.vm(id).nic?.isPlugged, await held(host)]).toEqual([true, 1]);
    await host.control.remove(id);
    expect(await held(host)).toBe(0);
    expect((await host.control.get(id)).network?.address).toBeNull();
    await requireNothing(host);
  });

  it('create: a host without networks refuses before anything starts or waits', async () => {
    await using host = await FakeHost.open();
    await fillPool(host, 1);
    const { started } = host;
    host.script.fail('network', REFUSED);
    await expect(host.control.create({ network })).rejects.toBe(REFUSED);
    expect(host.started).toBe(started);
    expect((await host.control.pools())[0]).toMatchObject({ ready: 1, discarded: 0 });
    await requireNothing(host);
  });

  it.each([true, false])(
    'create: a failed lease fails the request, without a boot or another member (boot: %s)',
    async (boot) => {
      await using host = await FakeHost.open();
      const { started } = host;
      host.script.fail('lease', REFUSED);
      await expect(host.control.create({ network, boot })).rejects.toBe(REFUSED);
      expect(host.started).toBe(started);
      await requireNothing(host);
    },
  );

  it('a pool member gets its network at the claim; a failed lease fails only the request', async () => {
    await using host = await FakeHost.open();
    await fillPool(host, 2);
    expect(await held(host)).toBe(0);
    const { id, origin } = await host.control.create({ network });
    expect(origin).toBe('pool');
    const guest = (await host.control.guest(id)) as unknown as { network?: { mac: string } };
    expect(guest.network?.mac).toBe(host.vm(id).nic?.mac);
    await fillPool(host, 2);
    host.script.fail('lease', REFUSED);
    await expect(host.control.create({ network })).rejects.toBe(REFUSED);
    expect(await held(host)).toBe(1);
    await requireNothing(host);
  });

  it('a member whose card can not be plugged is ended with its lease, and the next is taken', async () => {
    await using host = await FakeHost.open();
    await fillPool(host, 2);
    host.script.fail('plug-nic');
    const { id } = await host.control.create({ network });
    expect([host.vm(id).nic?.isPlugged, await held(host)]).toEqual([true, 1]);
    await requireNothing(host);
  });

  it('a member with a card gets only policy and secrets at the claim, and keeps its address', async () => {
    await using host = await FakeHost.open();
    await fillPool(host, 1, { card: true });
    expect(host.leased.map(({ policy }) => policy.mode)).toEqual(['none']);
    const [{ nic } = {}] = host.vms();
    expect([nic?.isPlugged, await held(host)]).toEqual([true, 1]);
    const { id, origin, network: told } = await host.control.create({ network });
    expect([origin, told?.mode, told?.address]).toEqual(['pool', 'allowlist', expect.stringMatching(/^10\./)]);
    expect(host.vm(id).nic).toEqual(nic);
    await requireNothing(host);
  });

  it('a member whose card does not take the policy is ended with its lease, and a clone starts', async () => {
    await using host = await FakeHost.open();
    await fillPool(host, 1, { card: true });
    // The check before the start passes; the policy fails.
    host.script.next('network', () => undefined);
    host.script.fail('network');
    const { origin } = await host.control.create({ network });
    expect([origin, host.vms().length, await held(host)]).toEqual(['clone', 1, 1]);
    await requireNothing(host);
  });

  it('pause to disk releases the lease, resume takes another; in memory and for a snapshot it stays', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ network });
    const { mac } = host.vm(id).nic ?? {};
    await host.control.snapshot(id);
    expect(host.vm(id).nic).toEqual({ mac, isPlugged: true });
    await host.control.pause(id, 'memory');
    expect(await held(host)).toBe(1);
    await host.control.pause(id, 'disk');
    expect(await held(host)).toBe(0);
    expect((await host.control.get(id)).network).toMatchObject({ ...network, address: null });
    await host.control.resume(id);
    expect(host.vm(id).nic?.mac).not.toBe(mac);
    expect(await held(host)).toBe(1);
    await requireNothing(host);
  });

  it('a resume whose lease fails leaves the sandbox suspended, and can be retried', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ network });
    await host.control.pause(id, 'disk');
    host.script.fail('lease', REFUSED);
    await expect(host.control.resume(id)).rejects.toBe(REFUSED);
    expect((await host.control.get(id)).status).toBe('paused');
    await host.control.resume(id);
    expect(host.vm(id).nic?.isPlugged).toBe(true);
    await requireNothing(host);
  });

  it.each(['withdraw-nic', 'unplug', 'save-state', 'keep-memory', 'commit'] as const)(
    'a save that fails at %s: the sandbox continues with the same card',
    async (phase) => {
      await using host = await FakeHost.open();
      const { id } = await host.control.create({ network });
      const { nic } = host.vm(id);
      host.script.fail(phase);
      await expect(host.control.pause(id, 'disk')).rejects.toMatchObject({ code: 'snapshot_failed' });
      expect((await host.control.get(id)).status).toBe('running');
      expect(host.vm(id).nic).toEqual(nic);
      expect(host.script.unused).toEqual([]);
      await requireNothing(host);
    },
  );

  it('forks: each has its own lease; a failed lease fails one fork', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ network });
    host.script.fail('lease', REFUSED);
    const forks = await host.control.fork(id, { count: 3 });
    const made = forks.flatMap((fork) => (fork.ok ? [fork.sandbox] : []));
    expect(forks.filter(({ ok }) => !ok)).toEqual([
      { ok: false, code: 'network_unavailable', message: REFUSED.message },
    ]);
    expect(made.map((one) => one.network?.allow)).toEqual([network.allow, network.allow]);
    const macs = [id, ...made.map((one) => one.id)].map((one) => host.vm(one).nic?.mac);
    expect(new Set(macs).size).toBe(3);
    await requireNothing(host);
  });

  it('limits: kept by an update of rules, a pause and forks; usage is kept by the pause only', async () => {
    await using host = await FakeHost.open();
    const limits = { bytesMax: 1000, connectionsMax: 5 };
    const { id } = await host.control.create({ network: { ...network, limits } });
    host.bytesUsed = 400;
    const changed = await host.control.update(id, { network: { mode: 'open' } });
    expect(changed.network).toMatchObject({ mode: 'open', limits });
    const [fork] = await host.control.fork(id, { count: 1 });
    if (fork?.ok !== true) throw new Error('no fork');
    expect(host.leased.at(-1)).toMatchObject({ policy: { mode: 'open' }, limits, bytesUsed: 0 });
    await host.control.pause(id, 'disk');
    await host.control.resume(id);
    expect(host.leased.at(-1)).toMatchObject({ policy: { mode: 'open' }, limits, bytesUsed: 400 });
    const [second] = await host.control.fork(id, { count: 1 });
    if (second?.ok !== true) throw new Error('no fork');
    expect(host.leased.at(-1)).toMatchObject({ limits, bytesUsed: 0 });
    const none = await host.control.update(id, { network: { mode: 'open', limits: {} } });
    expect(none.network).toMatchObject({ limits: {} });
    await requireNothing(host);
  });

  it('limits by name: usage is public and survives pauses; a fork starts at 0', async () => {
    await using host = await FakeHost.open();
    const limits = { destinations: [{ name: 'a.example', bytesMax: 1000 }] };
    const { id } = await host.control.create({ network: { ...network, limits } });
    host.destinations = [{ name: 'a.example', bytesMax: 1000, bytesUsed: 300 }];
    const told = (await host.control.get(id)).network;
    expect(told).toMatchObject({ limits, gatewayUse: { destinations: host.destinations } });
    const changed = await host.control.update(id, { network: { ...network, allow: ['b.example'] } });
    expect(changed.network).toMatchObject({ allow: ['b.example'], limits });
    const [fork] = await host.control.fork(id, { count: 1 });
    if (fork?.ok !== true) throw new Error('no fork');
    expect(host.leased.at(-1)).toMatchObject({ limits });
    expect(host.leased.at(-1)?.destinationBytesUsed).toBeUndefined();
    await host.control.pause(id, 'disk');
    await host.control.resume(id);
    const kept = { limits, destinationBytesUsed: { 'a.example': 300 } };
    expect(host.leased.at(-1)).toMatchObject(kept);
    await requireNothing(host);
  });

  it('limits by name: an invalid name is refused', async () => {
    await using host = await FakeHost.open();
    for (const destinations of [
      [{ name: 'localhost', bytesMax: 1 }],
      [{ name: 'a.*.example', bytesMax: 1 }],
      [{ name: 'a.example', bytesMax: 0 }],
      [
        { name: 'a.example', bytesMax: 1 },
        { name: 'A.example.', bytesMax: 2 },
      ],
      Array.from({ length: 65 }, (_, n) => ({ name: `n${n}.example`, bytesMax: 1 })),
    ]) {
      const limited = { network: { ...network, limits: { destinations } } };
      await expect(host.control.create(limited)).rejects.toMatchObject({ code: 'spec_invalid' });
    }
    await requireNothing(host);
  });

  it('rules by path: a change sends the certificate to the guest, also without secrets', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ network });
    const guest = await host.guest(id);
    await host.control.update(id, { network });
    expect(guest.authority).toBeUndefined();
    const authority = new CertificateAuthority(host.clock);
    host.trust = { authority, certificate: 'of this host' };
    await host.control.update(id, { network: { ...network, allow: ['https://a.example/v1/'] } });
    expect(guest.authority).toBe('of this host');
    await host.control.update(id, { network: null });
    expect(guest.authority).toBeNull();
    await requireNothing(host);
  });

  it('update: changes, removes and adds a network at runtime; a refused one changes nothing', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ network });
    const open: NetworkOptions = { mode: 'open' };
    host.script.fail('network', new SandboxError('spec_invalid', 'no such rule'));
    await expect(host.control.update(id, { network: open })).rejects.toMatchObject({ code: 'spec_invalid' });
    expect((await host.control.get(id)).network?.mode).toBe('allowlist');
    expect((await host.control.update(id, { network: open })).network?.mode).toBe('open');
    expect((await host.control.update(id, { network: null })).network).toBeNull();
    expect([host.vm(id).nic, await held(host)]).toEqual([null, 0]);
    await host.control.update(id, { network });
    expect([host.vm(id).nic?.isPlugged, await held(host)]).toEqual([true, 1]);
    await requireNothing(host);
  });

  it('update: waits for a save, and resumes a paused sandbox first', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ network });
    const saving = host.script.hold('save-state');
    const snapshot = host.control.snapshot(id);
    await saving.reached;
    const update = host.control.update(id, { network: null });
    saving.release();
    await snapshot;
    expect((await update).network).toBeNull();
    expect(host.vm(id).nic).toBeNull();
    await host.control.pause(id, 'disk');
    expect((await host.control.update(id, { network })).status).toBe('running');
    expect(host.vm(id).nic?.isPlugged).toBe(true);
    await requireNothing(host);
  });
});

describe('LocalControlPlane: secrets', () => {
  const value = 'sk-live-0123456789-abcdefghijklmn';
  const secrets = [{ name: 'API_KEY', hosts: ['a.example'], value }];
  it('bring a network; values are neither public nor on disk', async () => {
    await using host = await FakeHost.open();
    const { id, network: told, secrets: shown } = await host.control.create({ secrets });
    expect(told?.mode).toBe('allowlist');
    expect(shown).toEqual([{ name: 'API_KEY', hosts: ['a.example'], places: [], held: true }]);
    await host.control.pause(id, 'disk');
    const row = await host.store.sandboxes.get(id);
    expect(JSON.stringify(row)).toContain('API_KEY');
    expect(JSON.stringify(row)).not.toContain(value);
    // This process still has the value.
    expect((await host.control.resume(id)).secrets).toMatchObject([{ held: true }]);
    await requireNothing(host);
  });

  it('a guest that does not answer keeps no secret: info, row and forks follow the gateway', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ secrets });
    host.script.fail('update');
    await expect(host.control.update(id, { secrets: [] })).rejects.toThrow();
    expect((await host.control.get(id)).secrets).toEqual([]);
    expect(JSON.stringify(await host.store.sandboxes.get(id))).not.toContain('API_KEY');
    const [fork] = await host.control.fork(id, { count: 1 });
    expect(fork).toMatchObject({ ok: true, sandbox: { secrets: [] } });
    await requireNothing(host);
  });

  it('values held by another process: no resume and no fork until they are set again', async () => {
    const dataDir = await temporaryDir();
    const isOwnerAlive = async (): Promise<boolean> => true;
    await using first = await FakeHost.open({ owner: 'first', dataDir, isOwnerAlive });
    await using host = await FakeHost.open({ owner: 'second', dataDir, isOwnerAlive });
    const { id } = await first.control.create({ secrets });
    await first.control.pause(id, 'disk');
    expect((await host.control.get(id)).secrets).toMatchObject([{ held: false }]);
    const missing = { code: 'secrets_missing' };
    await expect(host.control.resume(id)).rejects.toMatchObject(missing);
    await expect(host.control.fork(id, { count: 1 })).rejects.toMatchObject(missing);
    const bad = [{ name: 'API_KEY', hosts: ['a.example'], value: 'short' }];
    await expect(host.control.update(id, { secrets: bad })).rejects.toMatchObject({ code: 'spec_invalid' });
    const given = await host.control.update(id, { secrets });
    expect(given).toMatchObject({ status: 'paused', secrets: [{ held: true }] });
    expect((await host.control.resume(id)).status).toBe('running');
    await host.control.remove(id);
  });
});
