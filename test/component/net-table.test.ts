/** The shared table against the kernel, where a part of it is refused, lost or somebody else's. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { newSandboxId } from '../../src/base/ids.ts';
import { silentLog } from '../../src/base/log.ts';
import { AddressPlan } from '../../src/net/addresses/address-plan.ts';
import { HostLock } from '../../src/net/host-lock.ts';
import { HostTable, type InstalledRules } from '../../src/net/nftables/host-table.ts';
import { Nft } from '../../src/net/nftables/nft.ts';
import { type PacketPin, PINS_MAX } from '../../src/net/nftables/ruleset.ts';
import { type EgressPolicyText, parsePolicy } from '../../src/net/policy/egress-rules.ts';
import { startTicksOf } from '../../src/sys/process-start.ts';
import { Namespace } from '../support/namespaces.ts';

const owner = { pid: process.pid, startTicks: startTicksOf(process.pid) ?? '' };
const plan = new AddressPlan();
let dir: string;
let namespace: Namespace;
let table: HostTable;
let ours: InstalledRules[];
let isAsked: boolean;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-table-'));
  namespace = await Namespace.create();
  ours = [];
  isAsked = false;
  const tell = (): InstalledRules[] => {
    isAsked = true;
    return ours;
  };
  const nft = new Nft({ command: [...namespace.enter, 'nft'] });
  const lock = new HostLock(dir);
  table = new HostTable({ nft, lock, owner, ours: tell, log: silentLog });
  await table.prepare();
});
afterEach(async () => {
  await namespace[Symbol.asyncDispose]();
  await rm(dir, { recursive: true, force: true });
});

function installedRules(policy: EgressPolicyText, pins: readonly PacketPin[] = []): InstalledRules {
  const lease = plan.lease(newSandboxId());
  return { network: { lease, policy: parsePolicy(policy), dnsPort: 53, gatewayPort: 3128 }, pins };
}
function manyPins(count: number): PacketPin[] {
  return Array.from({ length: count }, (_, at) => ({
    address: `192.0.${at >> 8}.${at & 255}`,
    protocol: 'tcp',
    port: 5432,
    seconds: 600,
  }));
}
const ruleset = (): Promise<string> => namespace.run('nft', 'list', 'ruleset');
const LISTED = { mode: 'allowlist', allow: ['198.51.100.7'] } as const;

describe('more pins than the kernel takes', () => {
  it('do not keep a new policy from being the one that holds', async () => {
    const before = installedRules({ mode: 'open' });
    await table.add(before.network);
    const { lease } = before.network;
    const after = { ...before.network, policy: parsePolicy(LISTED) };
    await table.update(lease.id, () => ({ network: after, pins: manyPins(PINS_MAX + 1000) }));
    const text = await ruleset();
    expect(text).toContain('198.51.100.7');
    expect(text).toContain('192.0.0.0 . tcp . 5432');
  });
  it('of one do not keep the others from being restored', async () => {
    ours = [
      installedRules(LISTED, manyPins(PINS_MAX + 1000)),
      installedRules(LISTED),
      installedRules(LISTED),
    ];
    for (const { network } of ours) await table.add(network);
    await namespace.run('nft', 'flush', 'ruleset');
    expect(await table.repair()).toBe(true);
    const text = await ruleset();
    for (const { network } of ours) expect(text).toContain(`jump from_${network.lease.id}`);
    expect(text).toContain('192.0.0.0 . tcp . 5432');
    expect(await table.repair()).toBe(false);
  });
});

describe('a table that is not what it was', () => {
  it('of a living NeuroVisor of another version is not replaced by a repair', async () => {
    ours = [installedRules(LISTED)];
    for (const { network } of ours) await table.add(network);
    const mark = `owner/${newSandboxId()}/${owner.pid}.${owner.startTicks}/nv-x/10.201.9.0`;
    const other = `flush ruleset; add table inet neurovisor; add counter inet neurovisor layout_0; add counter inet neurovisor ${mark}`;
    await namespace.run('nft', other);
    const before = await ruleset();
    await expect(table.repair()).rejects.toMatchObject({ code: 'table_of_other_version' });
    expect(await ruleset()).toBe(before);
  });
  it('has the rules of a sandbox and no others, whatever was in its chains', async () => {
    const { network } = installedRules(LISTED);
    await table.add(network);
    const before = await ruleset();
    await table.remove(network.lease);
    const chain = `inet neurovisor forward_${network.lease.id}`;
    await namespace.run('nft', `add chain ${chain}; add rule ${chain} accept`);
    await table.add(network);
    expect((await ruleset()).split('\n').sort()).toEqual(before.split('\n').sort());
  });
  it('has nothing of a sandbox that was removed while it was repaired', async () => {
    const empty = await ruleset();
    const one = installedRules(LISTED);
    ours = [one];
    await table.add(one.network);
    await namespace.run('nft', 'flush', 'ruleset');
    const repair = table.repair();
    // It has read what is ours, and is about to add it.
    await expect.poll(() => isAsked).toBe(true);
    ours = [];
    await table.remove(one.network.lease);
    expect(await repair).toBe(true);
    expect(await ruleset()).toBe(empty);
  });
});
