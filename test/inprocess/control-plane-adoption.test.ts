/** What becomes of sandboxes whose VMs outlive a killed process. No VMs. */
import { closeSync, openSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { TenantQuotas } from '../../src/api/tenants/quota.ts';
import { NO_QUOTAS } from '../../src/api/tenants/settings.ts';
import { FakeClock } from '../../src/base/clock.ts';
import type { CreateRequest, SandboxInfo } from '../../src/sandbox/contract/control.ts';
import { SESSION_ANNOTATION } from '../../src/sandbox/contract/request.ts';
import { ADOPT_MS_MAX } from '../../src/sandbox/plane/adoption.ts';
import type { SameFile } from '../../src/sandbox/store/volume-table.ts';
import { openPidFd, takeFd } from '../../src/sys/process-memory.ts';
import { FakeHost, type FakeHostOptions } from '../support/fake-host.ts';
import { NOTHING } from '../support/fake-leftovers.ts';
import { settle } from '../support/fake-members.ts';
import { temporaryDir } from '../support/store.ts';

/** Creates a sandbox, kills its host, and opens the next one. */
async function afterKill(
  request: CreateRequest,
  options: FakeHostOptions & { readonly before?: (host: FakeHost, id: string) => Promise<void> } = {},
): Promise<{ host: FakeHost; id: string; made: SandboxInfo }> {
  const dataDir = await temporaryDir();
  const first = await FakeHost.open({ dataDir, owner: 'first', left: [] });
  const made = await first.control.create({ boot: true, ...request });
  const { before, ...rest } = options;
  await before?.(first, made.id);
  await first.kill();
  const host = await FakeHost.open({
    left: [made.id],
    ...rest,
    dataDir,
    owner: 'next',
    isOwnerAlive: async (owner) => owner === 'next',
  });
  return { host, id: made.id, made };
}

const events = async (host: FakeHost, id: string) => {
  const all = [];
  for await (const event of host.control.events(id, { follow: false })) all.push(event);
  return all;
};

describe('LocalControlPlane: VMs of a killed process', () => {
  it('takes over one that ran, with its policy and the rest of its timeout; look-ups wait for it', async () => {
    const { host, id, made } = await afterKill({ timeoutMs: 60_000, metadata: { of: 'a user' }, name: 'web' });
    await using _ = host;
    const adopting = host.control.adopt();
    expect(await host.control.get(id)).toMatchObject({ ...made, readyMs: null, timings: null });
    await adopting;
    expect(host.endedLeft).toEqual([]);
    expect(await events(host, id)).toMatchObject([{ type: 'adopted', gapMs: 0 }]);
    expect((await host.store.sandboxes.get(id)).ownerJson).toBe('"next"');
    expect((await host.control.list({ name: 'web' })).map((one) => one.id)).toEqual([id]);
    await host.control.remove(id);
    expect(await host.holdings()).toEqual(NOTHING);
  });

  it('a create or a resume is answered once its row is written: a kill right then loses nothing', async () => {
    await using host = await FakeHost.open();
    const answered: string[] = [];
    const afterRow = async (work: Promise<SandboxInfo>): Promise<SandboxInfo> => {
      const noted = work.then((info) => {
        answered.push(info.status);
        return info;
      });
      await held.reached;
      for (let i = 0; i < 20; i += 1) await settle();
      const early = answered.splice(0);
      held.release();
      expect(early).toEqual([]);
      return await noted;
    };
    let held = host.script.hold('put');
    const { id } = await afterRow(host.control.create({ boot: true }));
    await host.control.pause(id, 'disk');
    answered.splice(0);
    held = host.script.hold('put');
    await afterRow(host.control.resume(id));
    expect((await host.store.sandboxes.get(id)).status).toBe('running');
  });

  it('the numbers of events go on after each kill, and after a pause in another process', async () => {
    const dataDir = await temporaryDir();
    const seen: number[] = [];
    const open = (owner: string, left: string[]): Promise<FakeHost> =>
      FakeHost.open({ dataDir, owner, left, isOwnerAlive: async (one) => one === owner });
    const first = await open('first', []);
    const { id } = await first.control.create({ boot: true });
    await first.kill();
    for (const owner of ['second', 'third']) {
      const host = await open(owner, [id]);
      await host.control.adopt();
      for await (const { seq } of host.control.events(id, { follow: false, after: seen.at(-1) ?? 0 })) seen.push(seq);
      if (owner === 'third') await host.control.pause(id, 'disk');
      await host.kill();
    }
    await using last = await open('last', []);
    await last.control.resume(id);
    const reading = last.control.events(id, { after: seen.at(-1) ?? 0 });
    const end = reading.next();
    await last.control.remove(id);
    seen.push((await end).value?.seq ?? 0);
    expect(seen).toHaveLength(3);
    expect(seen).toEqual([...new Set(seen)].sort((a, b) => a - b));
  });

  it('one with a network gets a new lease with the policy and the use that its row has', async () => {
    const before = async (first: FakeHost, id: string): Promise<void> => {
      const limits = { bytesMax: 1000 };
      await first.control.update(id, { network: { mode: 'allowlist', allow: ['b.example'], limits } });
    };
    const { host, id } = await afterKill({ network: { mode: 'open' } }, { before });
    await using _ = host;
    await host.control.adopt();
    expect(host.endedLeft).toEqual([]);
    expect(host.leased).toMatchObject([{ policy: { mode: 'allowlist' }, limits: { bytesMax: 1000 } }]);
    expect(await host.control.get(id)).toMatchObject({ status: 'running', network: { allow: ['b.example'] } });
    await host.control.remove(id);
    expect(await host.holdings()).toEqual(NOTHING);
  });

  it('a timeout that has passed meanwhile counts', async () => {
    const { host, id } = await afterKill({ timeoutMs: 60_000 });
    await using _ = host;
    host.clock.advance(70_000);
    await host.control.adopt();
    host.clock.advance(1);
    await expect.poll(async () => (await host.control.get(id)).end?.cause).toBe('timeout');
  });

  it('one that was paused in memory is paused again, without its timeout', async () => {
    const before = async (first: FakeHost, id: string): Promise<void> => void (await first.control.pause(id, 'memory'));
    const { host, id } = await afterKill({ timeoutMs: 60_000 }, { before });
    await using _ = host;
    await host.control.adopt();
    expect(await host.control.get(id)).toMatchObject({ status: 'paused', pausedTo: 'memory', endsAtMs: null });
    expect((await host.control.resume(id)).status).toBe('running');
  });

  it('ends a VM whose sandbox is on disk: the pause is the sandbox', async () => {
    const before = async (first: FakeHost, id: string): Promise<void> => {
      await (await first.guest(id)).remember('a thing');
      await first.control.pause(id, 'disk');
    };
    const { host, id } = await afterKill({}, { before });
    await using _ = host;
    await host.control.adopt();
    expect([host.endedLeft, host.started]).toEqual([[id], 0]);
    expect((await host.control.resume(id)).status).toBe('running');
    expect(await (await host.guest(id)).recall()).toBe('a thing');
  });

  it('ends a VM whose sandbox has ended, or that has none', async () => {
    const before = async (first: FakeHost, id: string): Promise<void> => void (await first.control.remove(id));
    const { host, id } = await afterKill({}, { before, left: ['pool00000000000000xx'] });
    await using _ = host;
    await host.control.adopt();
    expect([host.endedLeft, host.started]).toEqual([['pool00000000000000xx'], 0]);
    expect((await host.control.get(id)).end?.cause).toBe('stopped');
  });

  it.each([
    [
      'secrets',
      { secrets: [{ name: 'KEY', hosts: ['a.example'], value: 'a-value-of-some-length' }] },
      'values are lost',
    ],
    ['a session', { annotations: { [SESSION_ANNOTATION]: 'yes' } }, 'it ends with its client'],
  ] as const)('ends one with %s, and says why', async (_what, request, why) => {
    const { host, id } = await afterKill(request as CreateRequest);
    await using _ = host;
    await host.control.adopt();
    expect([host.endedLeft, host.started]).toEqual([[id], 0]);
    const { end } = await host.control.get(id);
    expect(end).toMatchObject({ cause: 'host-lost', detail: expect.stringContaining(why) });
  });

  describe('volumes', () => {
    const data = { name: 'data', path: '/data' };
    /** As `afterKill`; `fd` is what its VMM has of the volume. */
    async function withVolume(keptFile?: (fd: number) => SameFile) {
      const dataDir = await temporaryDir();
      const first = await FakeHost.open({ dataDir, owner: 'first', left: [] });
      await first.control.createVolume({ name: 'data', sizeMib: 64 });
      const { id } = await first.control.create({ volumes: [data] });
      const fd = first.vm(id).volumes[0]?.fd ?? -1;
      await first.kill();
      const options = { dataDir, owner: 'next', isOwnerAlive: async (owner: string) => owner === 'next' };
      const host = await FakeHost.open({ ...options, left: [id], ...(keptFile && { keptFile: keptFile(fd) }) });
      return { host, id, fd, dataDir };
    }

    it('stay with the VM, which no other sandbox can have, before and after', async () => {
      const pidFd = openPidFd(process.pid);
      const { host, id, fd } = await withVolume((own) => () => takeFd(pidFd, own));
      await using _ = host;
      const { control } = host;
      await expect(control.create({ volumes: [data] })).rejects.toMatchObject({ code: 'in_use' });
      await control.adopt();
      closeSync(pidFd);
      expect(await control.volumes()).toMatchObject([{ attached: [{ sandbox: id, readOnly: false }] }]);
      await expect(control.create({ volumes: [data] })).rejects.toMatchObject({ code: 'in_use' });
      await control.remove(id);
      // The fake VMM ends with this process.
      closeSync(fd);
      await control.create({ volumes: [data] });
    });

    it.each([
      ['was removed', async (dir: string, [one = '']: string[]) => rm(join(dir, one)), 'there is no volume data'],
      ['its VMM has not opened', async () => undefined, 'it has not opened a file'],
    ])('a volume that %s ends the VM, and says so', async (_what, before, why) => {
      const { host, id, fd, dataDir } = await withVolume();
      await using _ = host;
      const dir = join(dataDir, 'volumes');
      await before(dir, await readdir(dir));
      await host.control.adopt();
      closeSync(fd);
      const { end } = await host.control.get(id);
      expect(end).toMatchObject({ cause: 'host-lost', detail: expect.stringContaining(why) });
      expect([host.endedLeft, await host.control.volumes()]).toMatchObject([[id], [{ attached: [] }]]);
      expect(await host.holdings()).toEqual(NOTHING);
    });

    it('a volume that another process has locked ends the VM', async () => {
      const { host, id, fd } = await withVolume((own) => () => openSync(`/proc/self/fd/${own}`, 'r+'));
      await using _ = host;
      await host.control.adopt();
      closeSync(fd);
      const { end } = await host.control.get(id);
      expect(end).toMatchObject({ cause: 'host-lost', detail: expect.stringContaining('has volume data') });
    });
  });

  it('one that can not be taken over ends, with the reason; the others do not', async () => {
    const { host, id } = await afterKill({});
    await using _ = host;
    host.script.fail('start', new Error('its descriptor 7 is another file'));
    await host.control.adopt();
    expect(host.endedLeft).toEqual([id]);
    const { end } = await host.control.get(id);
    expect(end).toMatchObject({ cause: 'host-lost', detail: expect.stringContaining('descriptor 7 is another file') });
    expect(await host.holdings()).toEqual(NOTHING);
  });

  it('a VM that could not be ended is logged, and its sandbox has ended', async () => {
    const { host, id } = await afterKill({});
    await using _ = host;
    host.script.fail('start', new Error('its descriptor 7 is another file'));
    host.script.fail('end-left', new Error('its group is busy'));
    await host.control.adopt();
    expect((await host.control.get(id)).end?.cause).toBe('host-lost');
  });

  it('counts for its owner before it goes on, and no longer if it is not taken over', async () => {
    const quotas = new TenantQuotas({ of: () => ({ ...NO_QUOTAS, sandboxes: 0 }) }, new FakeClock());
    const { host, id } = await afterKill({ annotations: { tenant: 'alice' } }, { gate: quotas });
    await using _ = host;
    expect([quotas.tenantOf(id), quotas.useOf('alice').sandboxes]).toEqual(['alice', 1]);
    host.script.fail('start', new Error('its descriptor 7 is another file'));
    await host.control.adopt();
    expect(quotas.useOf('alice')).toMatchObject({ sandboxes: 0, memoryMib: 0 });
  });

  it('one whose guest never answers ends in time', async () => {
    const { host, id } = await afterKill({});
    await using _ = host;
    const held = host.script.hold('hello');
    const adopting = host.control.adopt();
    await held.reached;
    host.clock.advance(ADOPT_MS_MAX);
    await adopting;
    expect((await host.control.get(id)).end?.cause).toBe('host-lost');
    expect(await host.holdings()).toEqual(NOTHING);
  });

  it('saves of one of another version say so; it has no forks', async () => {
    const madeFrom = { kernelDigest: 'kernel', rootImageDigest: 'older image' };
    const { host, id } = await afterKill({}, { madeFrom });
    await using _ = host;
    await host.control.adopt();
    const { id: snapshot, current } = await host.control.snapshot(id);
    expect(current).toBe(false);
    expect((await host.store.snapshots.get(snapshot)).rootImageDigest).toBe('older image');
    await expect(host.control.fork(id, { count: 1 })).rejects.toMatchObject({ code: 'snapshot_foreign' });
    expect((await host.control.get(id)).status).toBe('running');
  });

  it('one of another version has forks of that version while its image is there', async () => {
    const madeFrom = { kernelDigest: 'kernel', rootImageDigest: 'older image' };
    const { host, id } = await afterKill({}, { madeFrom, olderImages: ['older image'] });
    await using _ = host;
    await host.control.adopt();
    expect((await host.control.snapshot(id)).current).toBe(true);
    const [copy] = await host.control.fork(id, { count: 1 });
    expect(copy?.ok).toBe(true);
    await host.control.pause(copy?.ok === true ? copy.sandbox.id : '', 'disk');
    const rows = await host.store.snapshots.list();
    expect(rows.map(({ rootImageDigest }) => rootImageDigest)).toEqual(['older image', 'older image']);
  });

  it('what was used of a budget is stored within 2 seconds', async () => {
    const before = async (first: FakeHost, id: string): Promise<void> => {
      const used = { inputTokens: 3, outputTokens: 4, requests: 1, costNanoDollars: 0 };
      first.models.use.set(id, used as never);
      first.control.noteUsage({ sandboxId: id } as never);
      first.clock.advance(2_000);
      await expect.poll(async () => (await first.store.sandboxes.get(id)).requestJson).toContain('"outputTokens":4');
    };
    const { host, id } = await afterKill({ models: { budget: { outputTokens: 100 } } }, { before });
    await using _ = host;
    await host.control.adopt();
    expect(host.models.accounts.get(id)).toMatchObject({ id, used: { outputTokens: 4 } });
  });
});
