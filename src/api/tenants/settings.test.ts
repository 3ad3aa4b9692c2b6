import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HostStore, NO_QUOTAS, TenantStore, UNSET_CEILING, unset } from './settings.ts';

let home: string;
let store: TenantStore;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'nv-quotas-'));
  store = new TenantStore(home);
});
afterEach(() => rmSync(home, { recursive: true, force: true }));

it('TenantStore: a change holds at once and after a restart, and keeps quotas that it does not name', () => {
  expect(store.of('acme')).toEqual(NO_QUOTAS);
  store.set('acme', { sandboxes: 3, startsPerSecond: 0.5 });
  store.set('acme', { sandboxes: 4 });
  for (const one of [store, new TenantStore(home)]) {
    expect(one.of('acme')).toEqual({ ...NO_QUOTAS, sandboxes: 4, startsPerSecond: 0.5 });
    expect(one.of('beta')).toEqual(NO_QUOTAS);
    expect(one.list().map(({ name }) => name)).toEqual(['acme']);
  }
  store.set('acme', { sandboxes: null });
  expect(store.of('acme').sandboxes).toBeNull();
  expect(statSync(join(home, 'tenants', 'acme.json')).mode & 0o777).toBe(0o600);
});

it('TenantStore: no hosted models until they are set, which keeps the quotas', () => {
  expect(store.get('acme').allowHosted).toEqual([]);
  store.set('acme', { sandboxes: 3 });
  store.set('acme', { allowHosted: ['gpt-5-mini'] });
  expect(store.get('acme')).toMatchObject({ allowHosted: ['gpt-5-mini'], quotas: { sandboxes: 3 } });
  store.set('acme', { sandboxes: 4 });
  expect(store.get('acme').allowHosted).toEqual(['gpt-5-mini']);
  store.set('acme', { allowHosted: [] });
  expect(store.get('acme').allowHosted).toEqual([]);
  // In the forms of earlier versions.
  const early = { name: 'acme', quotas: NO_QUOTAS, allowHosted: ['m'], priority: 'batch' };
  writeFileSync(join(home, 'tenants', 'acme.json'), JSON.stringify(early));
  expect(new TenantStore(home).get('acme')).toEqual({ ...unset('acme'), allowHosted: ['m'], own: ['allowHosted'] });
  writeFileSync(join(home, 'tenants', 'acme.json'), JSON.stringify({ name: 'acme', quotas: NO_QUOTAS }));
  expect(new TenantStore(home).get('acme').allowHosted).toEqual([]);
});

it('TenantStore: the ceiling is the lowest until it is set, and each part stays until it is replaced', () => {
  const ceiling = { allowHosted: ['m'], allowNet: ['10.1.0.0/16', '10.2.0.1'], allowFields: ['store'] };
  expect(store.get('acme')).toMatchObject(UNSET_CEILING);
  for (const [name, value] of Object.entries(ceiling)) store.set('acme', { [name]: value });
  for (const one of [store, new TenantStore(home)]) expect(one.get('acme')).toMatchObject(ceiling);
  store.set('acme', { ...UNSET_CEILING });
  expect(new TenantStore(home).get('acme')).toMatchObject(UNSET_CEILING);
});

describe('what all tenants inherit', () => {
  const budget = { outputTokens: 5, windowMs: 60_000 };
  const opened = () => new TenantStore(home);

  it('holds for each tenant, known or not, until the tenant has a setting of its own', () => {
    store.set('_default', {
      sandboxes: 3,
      memoryMib: 512,
      allowHosted: ['m'],
      allowFields: ['store'],
      modelBudget: budget,
    });
    store.set('acme', { sandboxes: 4, memoryMib: null, allowHosted: [], modelBudget: null });
    store.set('beta', { allowFields: ['seed_2'] });
    for (const one of [store, opened()]) {
      expect(one.get('other')).toEqual({
        ...unset('other'),
        quotas: { ...NO_QUOTAS, sandboxes: 3, memoryMib: 512 },
        allowHosted: ['m'],
        allowFields: ['store'],
        modelBudget: budget,
      });
      expect(one.get('acme')).toEqual({
        ...unset('acme'),
        quotas: { ...NO_QUOTAS, sandboxes: 4 },
        allowFields: ['store'],
        own: ['sandboxes', 'memoryMib', 'allowHosted', 'modelBudget'],
      });
      expect(one.get('beta')).toMatchObject({
        allowFields: ['seed_2'],
        quotas: { sandboxes: 3 },
        own: ['allowFields'],
      });
      expect(one.list().map(({ name }) => name)).toEqual(['acme', 'beta']);
      expect(one.of('other').sandboxes).toBe(3);
    }
  });

  it('a setting is inherited again when it is given up', () => {
    store.set('_default', { sandboxes: 3 });
    store.set('acme', { sandboxes: 4, allowFields: ['store'] });
    expect(store.set('acme', { inherit: ['sandboxes'] })).toMatchObject({
      quotas: { sandboxes: 3 },
      own: ['allowFields'],
    });
    expect(opened().get('acme')).toMatchObject({ quotas: { sandboxes: 3 }, own: ['allowFields'] });
    store.set('_default', { inherit: ['sandboxes'] });
    expect(opened().get('acme').quotas).toEqual(NO_QUOTAS);
    store.set('_default', { sandboxes: 3 });
    expect(store.remove('acme')).toBe(true);
    expect(store.get('acme')).toMatchObject({ quotas: { sandboxes: 3 }, own: [] });
    expect(() => store.set('acme', { sandboxes: 1, inherit: ['sandboxes'] })).toThrow('can’t be set and inherited');
  });

  it('of a file of an earlier release, what was set is its own', () => {
    store.set('_default', { sandboxes: 3, startsPerSecond: 1, allowNet: ['10.0.0.0/8'], allowFields: ['store'] });
    const ceiling = { allowHosted: ['m'], allowNet: [], allowFields: ['top_a'], priority: 'batch' };
    const old = { name: 'acme', quotas: { ...NO_QUOTAS, sandboxes: 9 }, ...ceiling, modelBudget: null };
    writeFileSync(join(home, 'tenants', 'acme.json'), JSON.stringify(old));
    expect(opened().get('acme')).toMatchObject({
      quotas: { sandboxes: 9, startsPerSecond: 1 },
      allowHosted: ['m'],
      allowNet: ['10.0.0.0/8'],
      allowFields: ['top_a'],
      own: ['sandboxes', 'allowHosted', 'allowFields'],
    });
  });

  it('no daemon opens with a setting that it does not know', () => {
    store.set('acme', { sandboxes: 3 });
    writeFileSync(join(home, 'tenants', 'acme.json'), '{"name":"acme","sandboxes":3,"later":true}');
    expect(opened).toThrow('could not read the tenant acme');
    expect(() => store.set('acme', { later: true } as object)).toThrow(expect.objectContaining({ code: 'invalid' }));
  });
});

it.each([
  { allowNet: ['10.0.0.1/8'] },
  { allowNet: ['10.0.0.0/33'] },
  { allowNet: ['example.com'] },
  { allowFields: ['a b'] },
])('TenantStore: refuses %j, and names it', (change) => {
  const text = Object.values(change).flat().join();
  expect(() => store.set('acme', change)).toThrow(`"${text}" is not`);
  expect(store.get('acme')).toMatchObject(UNSET_CEILING);
});

it('TenantStore: the longest lists can be read back', () => {
  const fields = Array.from({ length: 64 }, (_, n) => `${'f'.repeat(196)}${n}`);
  const nets = Array.from({ length: 64 }, (_, n) => `192.168.100.${100 + n}`);
  const hosted = Array.from({ length: 256 }, (_, n) => `${'𝔪'.repeat(252)}${n}`);
  const patterns = Array.from({ length: 64 }, (_, n) => `${'𝔪'.repeat(253)}${n}`);
  const all = { allowModels: patterns, allowImages: patterns, allowTemplates: patterns, allowLogins: patterns };
  const longest = { allowFields: fields, allowNet: nets, allowHosted: hosted, ...all };
  store.set('acme', longest);
  expect(new TenantStore(home).get('acme')).toMatchObject(longest);
});

it('model budgets of tenants and host: a change holds at once and after a restart', () => {
  const budget = { outputTokens: 5, windowMs: 60_000 };
  const host = new HostStore(home);
  expect([store.get('acme').modelBudget, host.get().modelBudget]).toEqual([null, null]);
  store.set('acme', { modelBudget: budget });
  store.set('acme', { sandboxes: 3 });
  host.set({ modelBudget: { ...budget, requests: 1 } });
  for (const one of [host, new HostStore(home)])
    expect(one.get()).toMatchObject({ modelBudget: { ...budget, requests: 1 } });
  for (const one of [store, new TenantStore(home)]) {
    expect(one.list()).toEqual([
      {
        name: 'acme',
        quotas: { ...NO_QUOTAS, sandboxes: 3 },
        ...UNSET_CEILING,
        modelBudget: budget,
        own: ['sandboxes', 'modelBudget'],
      },
    ]);
  }
  store.set('acme', { modelBudget: null });
  host.set({ modelBudget: null });
  expect([store.get('acme').modelBudget, host.get().modelBudget]).toEqual([null, null]);
  expect(statSync(join(home, 'host', 'settings.json')).mode & 0o777).toBe(0o600);
});

it('HostStore: a cordon holds after a restart, and a change of another setting keeps it', () => {
  const host = new HostStore(home);
  expect(host.get().cordoned).toBe(false);
  host.set({ cordoned: true });
  host.set({ modelBudget: null });
  for (const one of [host, new HostStore(home)]) expect(one.get()).toEqual({ modelBudget: null, cordoned: true });
  // As an earlier release writes it.
  writeFileSync(join(home, 'host', 'settings.json'), '{"name":"settings","modelBudget":null}');
  expect(new HostStore(home).get().cordoned).toBe(false);
});

it('refuses a name that is not valid for a tenant, including paths', () => {
  for (const name of ['../acme', 'A', '']) {
    expect(() => store.set(name, {})).toThrow('not a valid tenant name');
  }
});

it('a change that could not be written does not hold', () => {
  store.set('acme', { sandboxes: 3 });
  rmSync(join(home, 'tenants'), { recursive: true });
  writeFileSync(join(home, 'tenants'), '');
  expect(() => store.set('acme', { sandboxes: 4 })).toThrow('could not write the tenant acme');
  expect(store.of('acme').sandboxes).toBe(3);
});

it('nothing opens without a limit that was set: a damaged file is named, with what to do', () => {
  store.set('acme', { sandboxes: 3 });
  new HostStore(home).set({ modelBudget: null });
  const tenant = join(home, 'tenants', 'acme.json');
  writeFileSync(tenant, '{');
  const fault = { code: 'file_failed', remedy: expect.stringContaining(tenant) };
  expect(() => new TenantStore(home)).toThrow(expect.objectContaining(fault));
  for (const text of ['{', '{"name":"settings","modelBudget":{"outputTokens":1}}']) {
    writeFileSync(join(home, 'host', 'settings.json'), text);
    expect(() => new HostStore(home)).toThrow('could not read the host’s settings');
  }
  rmSync(join(home, 'tenants'), { recursive: true });
  writeFileSync(join(home, 'tenants'), '');
  expect(() => new TenantStore(home)).toThrow('could not read');
});

it('tokens per day of an earlier release stay a limit until a budget is set', () => {
  store.set('acme', {});
  const file = join(home, 'tenants', 'acme.json');
  const old = { name: 'acme', quotas: { ...NO_QUOTAS, tokensPerDay: 5_000.5 } };
  writeFileSync(file, JSON.stringify(old));
  const day = { inputTokens: 5_000, outputTokens: 5_000, windowMs: 86_400_000 };
  const again = new TenantStore(home);
  expect(again.get('acme')).toEqual({ ...unset('acme'), modelBudget: day, own: ['modelBudget'] });
  again.set('acme', { sandboxes: 3 });
  expect(again.get('acme').modelBudget).toEqual(day);
  writeFileSync(file, JSON.stringify({ ...old, modelBudget: null }));
  expect(new TenantStore(home).get('acme').modelBudget).toBeNull();
});
