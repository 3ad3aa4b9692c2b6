import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { systemClock } from '../../base/clock.ts';
import { silentLog } from '../../base/log.ts';
import { HostStore, KnownHost, KnownTenants, NO_QUOTAS, TenantStore } from './settings.ts';

let home: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'nv-quotas-'));
});
afterEach(() => rmSync(home, { recursive: true, force: true }));

it('a running daemon notices each change, which keeps quotas that it does not name', () => {
  const store = new TenantStore(home);
  const known = new KnownTenants(home, systemClock, silentLog);
  expect(known.of('acme')).toEqual(NO_QUOTAS);
  store.set('acme', { sandboxes: 3, startsPerSecond: 0.5 });
  store.set('acme', { sandboxes: 4 });
  expect(known.of('acme')).toEqual({ ...NO_QUOTAS, sandboxes: 4, startsPerSecond: 0.5 });
  store.set('acme', { sandboxes: null });
  expect(known.of('acme').sandboxes).toBeNull();
  expect(known.of('beta')).toEqual(NO_QUOTAS);
  expect(store.list().map(({ name }) => name)).toEqual(['acme']);
  expect(statSync(join(home, 'tenants', 'acme.json')).mode & 0o777).toBe(0o600);
});

it('hosted models: none until they are set, which keeps the quotas', () => {
  const store = new TenantStore(home);
  const known = new KnownTenants(home, systemClock, silentLog);
  expect(known.hostedOf('acme')).toEqual([]);
  store.set('acme', { sandboxes: 3 });
  store.set('acme', { allowHosted: ['gpt-5-mini'] });
  expect(known.hostedOf('acme')).toEqual(['gpt-5-mini']);
  expect(known.of('acme').sandboxes).toBe(3);
  store.set('acme', { sandboxes: 4 });
  expect(known.hostedOf('acme')).toEqual(['gpt-5-mini']);
  store.set('acme', { allowHosted: [] });
  expect(known.hostedOf('acme')).toEqual([]);
  // In the form of an earlier release.
  const file = join(home, 'tenants', 'acme.json');
  writeFileSync(file, JSON.stringify({ name: 'acme', quotas: NO_QUOTAS }));
  expect(known.hostedOf('acme')).toEqual([]);
  expect(store.get('acme').allowHosted).toEqual([]);
});

it('model budgets: a running daemon notices each change, which keeps what it does not name', () => {
  const budget = { outputTokens: 5, windowMs: 60_000 };
  const store = new TenantStore(home);
  const known = new KnownTenants(home, systemClock, silentLog);
  const host = new KnownHost(home, systemClock, silentLog);
  expect([known.budgetOf('acme'), host.budget()]).toEqual([null, null]);
  store.set('acme', { modelBudget: budget });
  store.set('acme', { sandboxes: 3 });
  new HostStore(home).set({ modelBudget: { ...budget, requests: 1 } });
  expect(known.budgetOf('acme')).toEqual(budget);
  expect(host.budget()).toEqual({ ...budget, requests: 1 });
  expect(known.list()).toEqual([
    { name: 'acme', quotas: { ...NO_QUOTAS, sandboxes: 3 }, allowHosted: [], modelBudget: budget },
  ]);
  store.set('acme', { modelBudget: null });
  expect(known.budgetOf('acme')).toBeNull();
  const file = join(home, 'host', 'settings.json');
  expect(statSync(file).mode & 0o777).toBe(0o600);
  // The last budget holds while the file can't be read, and no daemon starts without it.
  for (const text of ['{', '{"name":"settings","modelBudget":{"outputTokens":1}}']) {
    writeFileSync(file, text);
    expect(host.budget()).toMatchObject({ requests: 1 });
    expect(() => new KnownHost(home, systemClock, silentLog)).toThrow('could not read the host’s');
  }
  new HostStore(home).set({ modelBudget: null });
  expect(host.budget()).toBeNull();
});

it('refuses a name that is not valid for a tenant, including paths', () => {
  for (const name of ['../acme', 'A', '']) {
    expect(() => new TenantStore(home).set(name, {})).toThrow('not a valid tenant name');
  }
});

it('the last quotas hold while the file of a tenant can’t be read', () => {
  const store = new TenantStore(home);
  const known = new KnownTenants(home, systemClock, silentLog);
  store.set('acme', { sandboxes: 3 });
  store.set('beta', { sandboxes: 5 });
  expect(known.of('acme').sandboxes).toBe(3);
  writeFileSync(join(home, 'tenants', 'acme.json'), '{');
  expect(known.of('acme').sandboxes).toBe(3);
  expect(known.of('beta').sandboxes).toBe(5);
  rmSync(join(home, 'tenants', 'acme.json'));
  expect(known.of('acme')).toEqual(NO_QUOTAS);
});

it('a tenant whose file could never be read can start nothing more; others are unaffected', () => {
  const store = new TenantStore(home);
  store.set('acme', { sandboxes: 3, modelBudget: { requests: 1, windowMs: 60_000 } });
  store.set('beta', { sandboxes: 5 });
  const file = join(home, 'tenants', 'acme.json');
  writeFileSync(file, '{');
  const known = new KnownTenants(home, systemClock, silentLog);
  expect(known.of('acme')).toMatchObject({ sandboxes: 0, startsPerSecond: 0 });
  expect(known.budgetOf('acme')).toMatchObject({ requests: 0 });
  expect(known.of('beta').sandboxes).toBe(5);
  expect(known.budgetOf('beta')).toBeNull();
  expect(known.list().map(({ name }) => name)).toEqual(['beta']);
  rmSync(file);
  store.set('acme', { sandboxes: 4 });
  expect(known.of('acme')).toEqual({ ...NO_QUOTAS, sandboxes: 4 });
  expect(known.budgetOf('acme')).toBeNull();
});

it('no tenant can start more if the directory could never be read', () => {
  writeFileSync(join(home, 'tenants'), '');
  const known = new KnownTenants(home, systemClock, silentLog);
  expect(known.of('acme')).toMatchObject({ sandboxes: 0, startsPerSecond: 0 });
  expect(known.budgetOf('acme')).toMatchObject({ requests: 0 });
  rmSync(join(home, 'tenants'));
  expect(known.of('acme')).toEqual(NO_QUOTAS);
});

it('tokens per day of an earlier release stay a limit until a budget is set', () => {
  const store = new TenantStore(home);
  store.set('acme', {});
  const file = join(home, 'tenants', 'acme.json');
  const old = { name: 'acme', quotas: { ...NO_QUOTAS, tokensPerDay: 5_000.5 } };
  writeFileSync(file, JSON.stringify(old));
  const day = { inputTokens: 5_000, outputTokens: 5_000, windowMs: 86_400_000 };
  expect(store.get('acme')).toEqual({ ...old, quotas: NO_QUOTAS, allowHosted: [], modelBudget: day });
  store.set('acme', { sandboxes: 3 });
  expect(store.get('acme').modelBudget).toEqual(day);
  writeFileSync(file, JSON.stringify({ ...old, modelBudget: null }));
  expect(store.get('acme').modelBudget).toBeNull();
});
