/** An update of several parts is applied as a whole or not at all. No VMs. */
import { describe, expect, it } from 'vitest';
import { FakeHost } from '../support/fake-host.ts';
import { requireNothing } from '../support/fake-leftovers.ts';

const NETWORK = { mode: 'allowlist', allow: ['a.example'] } as const;
const LIMITS = { bytesPerSecond: 1_000_000 };
const POLICY = { timeoutMs: 60_000, metadata: { owner: 'new' } };
const SECRET = { name: 'KEY', hosts: ['api.example.com'], value: 'v'.repeat(32) };

describe('LocalControlPlane: update', () => {
  it('a last part that fails: limits, secrets, network and policy stay as they were', async () => {
    await using host = await FakeHost.open();
    const { control } = host;
    const before = await control.create({ boot: true, memoryMaxMib: 1024 });
    const { id } = before;
    host.script.fail('balloon');
    const change = { diskLimits: LIMITS, secrets: [SECRET], network: NETWORK, memoryMib: 1024, ...POLICY };
    await expect(control.update(id, change)).rejects.toThrow(/^balloon failed$/);
    expect(await control.get(id)).toEqual(before);
    expect(host.vm(id).diskLimits).toEqual({});
    expect(host.vm(id).nic).toBeNull();
    expect(await control.update(id, change)).toMatchObject({
      memoryMib: 1024,
      diskLimits: LIMITS,
      secrets: [{ name: 'KEY', held: true }],
      network: { allow: ['a.example'] },
      metadata: { owner: 'new' },
    });
    await requireNothing(host);
  });

  it('a memory size out of range: refused before anything is applied', async () => {
    await using host = await FakeHost.open();
    const { control } = host;
    const before = await control.create({ boot: true, memoryMaxMib: 1024 });
    const { id } = before;
    const change = { diskLimits: LIMITS, network: NETWORK, memoryMib: 2048, ...POLICY };
    await expect(control.update(id, change)).rejects.toMatchObject({ code: 'spec_invalid' });
    expect(await control.get(id)).toEqual(before);
    expect(host.vm(id).diskLimits).toEqual({});
    await requireNothing(host);
  });

  it('memory that the host lacks: limits and network stay as they were', async () => {
    await using host = await FakeHost.open({ availableMib: () => 2048 });
    const { control } = host;
    const before = await control.create({ boot: true, memoryMaxMib: 8192 });
    const { id } = before;
    const change = { diskLimits: LIMITS, network: NETWORK, memoryMib: 8192 };
    await expect(control.update(id, change)).rejects.toMatchObject({ code: 'memory_unavailable' });
    expect(await control.get(id)).toEqual(before);
    await requireNothing(host);
  });

  it('an undo that fails: the error names the parts that still apply', async () => {
    await using host = await FakeHost.open();
    const { control } = host;
    const { id } = await control.create({ boot: true, memoryMaxMib: 1024, network: NETWORK });
    host.script.fail('balloon');
    // The change succeeds; its undo fails.
    host.script.next('network', () => undefined);
    host.script.fail('network');
    const change = { network: { mode: 'open' }, memoryMib: 1024 } as const;
    await expect(control.update(id, change)).rejects.toThrow(/still applied: network/);
    expect(await control.get(id)).toMatchObject({ network: { mode: 'open' } });
    await requireNothing(host);
  });

  it('secrets and limits of a suspended sandbox: the secrets are present when it resumes', async () => {
    await using host = await FakeHost.open();
    const { control } = host;
    const { id } = await control.create({ boot: true });
    await control.pause(id, 'disk');
    const change = { secrets: [SECRET], diskLimits: LIMITS };
    expect(await control.update(id, change)).toMatchObject({
      status: 'running',
      diskLimits: LIMITS,
      secrets: [{ name: 'KEY', held: true }],
    });
    await requireNothing(host);
  });

  it('a suspended sandbox that can not resume: its secrets stay as they were', async () => {
    await using host = await FakeHost.open();
    const { control } = host;
    const { id } = await control.create({ boot: true });
    await control.pause(id, 'disk');
    const before = await control.get(id);
    host.script.fail('workspace');
    const change = { secrets: [SECRET], diskLimits: LIMITS };
    await expect(control.update(id, change)).rejects.toMatchObject({ code: 'start_failed' });
    expect(await control.get(id)).toEqual(before);
    await requireNothing(host);
  });

  it('packages: the policy of a running sandbox is replaced, or removed', async () => {
    await using host = await FakeHost.open();
    const { control } = host;
    const { id } = await control.create({ boot: true });
    const packages = { ecosystems: ['pip'], deny: ['torch'] } as const;
    expect(await control.update(id, { packages })).toMatchObject({
      packages: { ecosystems: ['pip'], allow: [], deny: ['torch'], lockedFiles: null },
    });
    // Other changes keep it.
    expect((await control.update(id, { metadata: { a: 'b' } })).packages).toMatchObject(packages);
    expect((await control.update(id, { packages: null })).packages).toBeNull();
    await requireNothing(host);
  });

  it('packages: an invalid policy is refused, and a part that fails later leaves them as they were', async () => {
    await using host = await FakeHost.open();
    const { control } = host;
    const before = await control.create({ boot: true, memoryMaxMib: 1024, packages: { ecosystems: ['npm'] } });
    const { id } = before;
    const invalid = { packages: { ecosystems: ['pip'], deny: ['not a name'] } } as const;
    await expect(control.update(id, invalid)).rejects.toMatchObject({ code: 'spec_invalid' });
    host.script.fail('balloon');
    const change = { packages: { ecosystems: ['pip'] }, memoryMib: 1024 } as const;
    await expect(control.update(id, change)).rejects.toThrow(/balloon failed/);
    expect(await control.get(id)).toEqual(before);
    await requireNothing(host);
  });

  it('packages of a suspended sandbox: it resumes with the new policy, and keeps it', async () => {
    await using host = await FakeHost.open();
    const { control } = host;
    const { id } = await control.create({ boot: true });
    await control.pause(id, 'disk');
    await control.update(id, { packages: { ecosystems: ['go'] } });
    await control.pause(id, 'disk');
    await control.resume(id);
    expect((await control.get(id)).packages).toMatchObject({ ecosystems: ['go'] });
    await requireNothing(host);
  });
});
