/** The shared table against the kernel: parts that are refused, lost or owned by another program. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { newSandboxId } from '../../src/base/ids.ts';
import { silentLog } from '../../src/base/log.ts';
import { AddressPlan } from '../../src/egress/net/addresses/address-plan.ts';
import { HostLock } from '../../src/egress/net/host-lock.ts';
import { HostTable, type InstalledRules } from '../../src/egress/net/nftables/host-table.ts';
import { Nft } from '../../src/egress/net/nftables/nft.ts';
import { type PacketPin, PINS_MAX } from '../../src/egress/net/nftables/ruleset.ts';
import { type EgressPolicyText, parsePolicy } from '../../src/egress/net/policy/egress-rules.ts';
import { startTicksOf } from '../../src/sys/process-start.ts';
import { Namespace } from '../support/namespaces.ts';

const owner = { pid: process.pid, startTicks: startTicksOf(process.pid) ?? '' };
const plan = new AddressPlan();
let dir: string;
let namespace: Namespace;
let table: HostTable;
let ours: InstalledRules[];
let hasReadOurs: boolean;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-table-'));
  namespace = await Namespace.create();
  ours = [];
  hasReadOurs = false;
  const readOurs = (): InstalledRules[] => {
    hasReadOurs = true;
    return ours;
  };
  const nft = new Nft({ command: [...namespace.enter, 'nft'] });
  const lock = new HostLock(dir);
  table = new HostTable({ nft, lock, owner, ours: readOurs, log: silentLog });
  await table.prepare();
});
afterEach(async () => {
  await namespace[Symbol.asyncDispose]();
  await rm(dir, { recursive: true, force: true });
});

function installedRules(policy: EgressPolicyText, pins: readonly PacketPin[] = []): InstalledRules {
  const lease = plan.lease(newSandboxId());
  return { input: { lease, policy: parsePolicy(policy), dnsPort: 53, gatewayPort: 3128 }, pins };
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

describe('HostTable: more pins than the kernel takes', () => {
  it('update: the new policy applies, with as many pins as fit', async () => {
    const before = installedRules({ mode: 'open' });
    await table.add(before.input);
    const { lease } = before.input;
    const after = { ...before.input, policy: parsePolicy(LISTED) };
    await table.update(lease.id, () => ({ input: after, pins: manyPins(PINS_MAX + 1000) }));
    const text = await ruleset();
    expect(text).toContain('198.51.100.7');
    expect(text).toContain('192.0.0.0 . tcp . 5432');
  });
  it('repair: restores the other sandboxes too', async () => {
    ours = [installedRules(LISTED, manyPins(PINS_MAX + 1000)), installedRules(LISTED), installedRules(LISTED)];
    for (const { input } of ours) await table.add(input);
    await namespace.run('nft', 'flush', 'ruleset');
    expect(await table.repair()).toBe(true);
    const text = await ruleset();
    for (const { input } of ours) expect(text).toContain(`jump from_${input.lease.id}`);
    expect(text).toContain('192.0.0.0 . tcp . 5432');
    expect(await table.repair()).toBe(false);
  });
});

describe('HostTable: a table changed by another program', () => {
  it('repair: does not replace the table of a running NeuroVisor of another version', async () => {
    ours = [installedRules(LISTED)];
    for (const { input } of ours) await table.add(input);
    const mark = `owner/${newSandboxId()}/${owner.pid}.${owner.startTicks}/nv-x/10.201.9.0`;
    const other = `flush ruleset; add table inet neurovisor; add counter inet neurovisor layout_0; add counter inet neurovisor ${mark}`;
    await namespace.run('nft', other);
    const before = await ruleset();
    await expect(table.repair()).rejects.toMatchObject({ code: 'table_of_other_version' });
    expect(await ruleset()).toBe(before);
  });
  it('add: replaces everything in the chains of the sandbox', async () => {
    const { input } = installedRules(LISTED);
    await table.add(input);
    const before = await ruleset();
    await table.remove(input.lease);
    const chain = `inet neurovisor forward_${input.lease.id}`;
    await namespace.run('nft', `add chain ${chain}; add rule ${chain} accept`);
    await table.add(input);
    expect((await ruleset()).split('\n').sort()).toEqual(before.split('\n').sort());
  });
  it('repair: does not restore a sandbox that is removed meanwhile', async () => {
    const empty = await ruleset();
    const one = installedRules(LISTED);
    ours = [one];
    await table.add(one.input);
    await namespace.run('nft', 'flush', 'ruleset');
    const repair = table.repair();
    // The repair has read `ours`, and is about to add it.
    await expect.poll(() => hasReadOurs).toBe(true);
    ours = [];
    await table.remove(one.input.lease);
    expect(await repair).toBe(true);
    expect(await ruleset()).toBe(empty);
  });
});
