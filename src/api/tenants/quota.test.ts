import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import type { SandboxInfo } from '../../sandbox/contract/control.ts';
import { BusyError } from '../../sandbox/contract/errors.ts';
import { TenantQuotas } from './quota.ts';
import { NO_QUOTAS, type Quotas } from './settings.ts';

function quotasOf(limits: Partial<Quotas>) {
  const clock = new FakeClock();
  const quotas = new TenantQuotas({ of: () => ({ ...NO_QUOTAS, ...limits }) }, clock);
  const changes: ((info: SandboxInfo) => void)[] = [];
  const control = {
    list: async () => [],
    onChange: (listener: (info: SandboxInfo) => void) => {
      changes.push(listener);
      return () => undefined;
    },
  };
  const change = (info: Partial<SandboxInfo>, tenant = 'acme'): void => {
    const whole = { memoryMib: 512, memoryMaxMib: null, pausedTo: null, status: 'running' };
    for (const listener of changes) {
      listener({ ...whole, annotations: { tenant }, ...info } as SandboxInfo);
    }
  };
  let ids = 0;
  const start = (tenant: string | null = 'acme', memoryMib = 512, resumes: string | null = null) =>
    quotas.admit({
      id: `s${ids++}`,
      annotations: tenant === null ? {} : { tenant },
      cpus: 1,
      memoryMib,
      diskMib: 2048,
      resumes,
    });
  return { clock, quotas, control, change, start };
}

describe('TenantQuotas', () => {
  it.each([
    ['apart', false, 'tenant acme', 'operator'],
    ['all together', true, 'all', 'all'],
  ])('sharersOf: memory of tenants is %s', (_how, isAcross, acme, operator) => {
    let hasTenants = false;
    const sharing = { isAcross, hasTenants: () => hasTenants };
    const quotas = new TenantQuotas({ of: () => NO_QUOTAS }, new FakeClock(), sharing);
    expect(quotas.sharersOf({ tenant: 'acme' })).toBe(acme);
    expect(quotas.sharersOf({})).toBe(operator);
    // Members of pools: the operator's, until a tenant could get one.
    expect(quotas.sharersOf(null)).toBe(operator);
    hasTenants = true;
    expect(quotas.sharersOf(null)).toBe(isAcross ? 'all' : null);
  });

  it('tenantOf: a sandbox has its owner from the start of its VM on', () => {
    const { quotas, start } = quotasOf({});
    const starting = start();
    expect(quotas.tenantOf('s0')).toBe('acme');
    starting.release();
    expect(quotas.tenantOf('s0')).toBeNull();
  });

  it('names the quota, its use, and when to retry', () => {
    const { start } = quotasOf({ sandboxes: 1 });
    start().runsAs('a');
    expect(() => start()).toThrow(BusyError);
    expect(() => start()).toThrow('quota of tenant acme: 1 of 1 sandboxes are used');
  });

  it.each([
    [{ sandboxes: 1 }, 'sandboxes', /^remove a sandbox, or ask the operator .*tenant set acme --sandboxes/],
    [{ memoryMib: 600 }, 'memory', /^remove a sandbox, or pause one to disk, or ask .*--memory/],
    [{ startsPerSecond: 0 }, 'starts', /^ask the operator for more .*--starts/],
    [{ startsPerSecond: 1 }, 'starts', /^try again in 1 s$/],
  ])('%j: the remedy is what makes room, and the refusal is counted', (limits, quota, remedy) => {
    const { quotas, start } = quotasOf(limits);
    if (!('startsPerSecond' in limits && limits.startsPerSecond === 0)) start();
    const counted = (): unknown =>
      Object.fromEntries(quotas.refusals.metric.samples().map((s) => [s.labels['quota'], s.value]));
    const before = { sandboxes: 0, memory: 0, starts: 0, storage: 0 };
    expect(counted()).toEqual(before);
    expect(() => start()).toThrow(expect.objectContaining({ quota, remedy: expect.stringMatching(remedy) }));
    expect(counted()).toEqual({ ...before, [quota]: 1 });
  });

  it('sandboxes: counts paused ones, but not ended and failed ones', async () => {
    const { quotas, control, change, start } = quotasOf({ sandboxes: 1 });
    await quotas.watch(control);
    start().release();
    start().runsAs('a');
    change({ id: 'a', status: 'paused', pausedTo: 'disk' });
    expect(() => start()).toThrow('1 of 1 sandboxes');
    change({ id: 'a', status: 'ended' });
    start().runsAs('b');
    quotas.abandoned('b');
    start();
  });

  it('memory: counts the maximum of sandboxes that can grow, and none for those on disk', async () => {
    const { quotas, control, change, start } = quotasOf({ memoryMib: 1024 });
    await quotas.watch(control);
    change({ id: 'a', memoryMaxMib: 900 });
    expect(() => start()).toThrow('900 of 1024 MiB of memory are used, 512 more wanted');
    change({ id: 'a', status: 'paused', pausedTo: 'disk-only', memoryMaxMib: 900 });
    start().release();
    change({ id: 'a', status: 'paused', pausedTo: 'disk', memoryMaxMib: 900 });
    const other = start();
    expect(() => start('acme', 900, 'a')).toThrow('512 of 1024 MiB');
    other.release();
    start('acme', 900, 'a').runsAs('a');
    expect(quotas.useOf('acme')).toMatchObject({ sandboxes: 1, memoryMib: 900 });
  });

  it('starts: allows one second’s number at once, then one after another', () => {
    const { clock, start } = quotasOf({ startsPerSecond: 2 });
    for (const _ of [1, 2]) start();
    expect(() => start()).toThrow(expect.objectContaining({ message: expect.stringContaining('2 starts a second') }));
    clock.advance(500);
    start();
    expect(() => start()).toThrow(expect.objectContaining({ retryAfterMs: 500 }));
  });

  it('watch: a sandbox that ends while it is listed does not count forever', async () => {
    const { quotas, control, change } = quotasOf({ sandboxes: 1 });
    const old = { id: 'a', memoryMib: 512, memoryMaxMib: null, pausedTo: null, status: 'paused' };
    const stale = [{ ...old, annotations: { tenant: 'acme' } } as unknown as SandboxInfo];
    await quotas.watch({
      ...control,
      list: async () => {
        change({ id: 'a', status: 'ended' });
        return stale;
      },
    });
    expect(quotas.useOf('acme').sandboxes).toBe(0);
  });

  it('counts a template build with memory and as a start, but not as a sandbox', async () => {
    const { quotas, start } = quotasOf({ sandboxes: 1, memoryMib: 3000 });
    const release = quotas.admitBuild('acme', 2048);
    expect(quotas.useOf('acme')).toMatchObject({ sandboxes: 0, memoryMib: 2048 });
    expect(() => quotas.admitBuild('acme', 2048)).toThrow('2048 of 3000 MiB of memory');
    start();
    release();
    expect(quotas.useOf('acme')).toMatchObject({ sandboxes: 1, memoryMib: 512 });
    quotas.admitBuild(null, 99_999)();
    const slow = quotasOf({ startsPerSecond: 1 });
    slow.quotas.admitBuild('acme', 1)();
    expect(() => slow.quotas.admitBuild('acme', 1)).toThrow('1 starts a second');
  });

  it('a refused start uses up nothing', () => {
    const { quotas, start } = quotasOf({ sandboxes: 5, memoryMib: 512 });
    start();
    for (let n = 0; n < 10; n += 1) expect(() => start()).toThrow('MiB of memory');
    expect(quotas.useOf('acme')).toMatchObject({ sandboxes: 1, memoryMib: 512 });
  });

  it('applies no quotas to the operator, and no tenant’s to another', () => {
    const { start } = quotasOf({ sandboxes: 1 });
    start('acme');
    start('beta');
    for (let n = 0; n < 3; n += 1) start(null);
    expect(() => start('beta')).toThrow('tenant beta');
  });
});
