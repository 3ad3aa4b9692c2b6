import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { silentLog } from '../../base/log.ts';
import { HOST_ACCOUNT, tenantAccount, type WindowedBudget } from '../../base/request/model-limits.ts';
import { TENANT_LIMITS } from './limits.ts';
import { ModelBudgets } from './model-budgets.ts';
import { unset } from './settings.ts';

const HOUR = 3_600_000;
const USE = { inputTokens: 1, outputTokens: 2, requests: 3, costNanoDollars: 4 };
const LIMITS: WindowedBudget = { requests: 9, windowMs: HOUR };
const ACME = tenantAccount('acme');

let homeDir: string;
let clock: FakeClock;
let limits: Record<string, WindowedBudget | null>;
const errors: string[] = [];
const log = { ...silentLog, error: (message: string) => void errors.push(message) };
const open = () =>
  ModelBudgets.open({
    homeDir,
    clock,
    log,
    tenants: {
      get: (tenant) => ({ ...unset(tenant), modelBudget: limits[tenant] ?? null }),
      list: () =>
        Object.entries(limits)
          .filter(([name]) => name !== HOST_ACCOUNT)
          .map(([name, modelBudget]) => ({ ...unset(name), modelBudget })),
    },
    host: { get: () => ({ modelBudget: limits[HOST_ACCOUNT] ?? null }) },
  });
const path = () => join(homeDir, 'model-budgets.json');
const useNow = (windowMs = HOUR) => ({ ...USE, windowMs, window: Math.floor(clock.wall() / windowMs) });
beforeEach(async () => {
  homeDir = await mkdtemp(join(tmpdir(), 'nv-budgets-'));
  clock = new FakeClock();
  limits = { host: LIMITS, acme: { outputTokens: 5, windowMs: 2 * HOUR }, other: null };
  errors.length = 0;
});
afterEach(() => rm(homeDir, { recursive: true, force: true }));

it('ModelBudgets: a sandbox shares the current budgets of its tenant and of the host', async () => {
  await using budgets = await open();
  const host = { account: HOST_ACCOUNT, limits: LIMITS };
  expect(budgets.of('acme')).toEqual([{ account: ACME, limits: limits['acme'] }, host]);
  expect([budgets.of('other'), budgets.of(null)]).toEqual([[host], [host]]);
  limits = {};
  expect(budgets.of('acme')).toEqual([]);
  expect(budgets.list()).toEqual([]);
});

it('ModelBudgets: a tenant that inherits its budget is listed once it has used some', async () => {
  const budget = { outputTokens: 5, windowMs: HOUR };
  const tenants = { get: (tenant: string) => ({ ...unset(tenant), modelBudget: budget }), list: () => [] };
  const host = { get: () => ({ modelBudget: null }) };
  await using budgets = await ModelBudgets.open({ homeDir, clock, log, tenants, host });
  expect(budgets.list()).toEqual([]);
  budgets.note('heir', (account) => (account === tenantAccount('heir') ? useNow() : null));
  expect(budgets.list()).toEqual([{ tenant: 'heir', limits: budget, used: useNow() }]);
});

it('ModelBudgets: a restart keeps the use of each window, and the next window resets it', async () => {
  {
    await using budgets = await open();
    const used = new Map([
      [HOST_ACCOUNT, useNow()],
      [ACME, useNow(2 * HOUR)],
    ]);
    budgets.note('acme', (account) => used.get(account) ?? null);
    budgets.note(null, () => null);
  }
  expect((await stat(path())).mode & 0o777).toBe(0o600);
  {
    await using again = await open();
    expect([...again.used]).toEqual([
      [HOST_ACCOUNT, useNow()],
      [ACME, useNow(2 * HOUR)],
    ]);
    expect(again.list().map(({ tenant, used }) => [tenant, used?.requests])).toEqual([
      [null, 3],
      ['acme', 3],
    ]);
    const gauges = again
      .metrics()
      .flatMap(({ name, samples }) => samples().map(({ labels, value }) => [name, labels, value]));
    expect(gauges).toEqual([
      ['neurovisor_model_budget_limit', { kind: 'requests' }, 9],
      ['neurovisor_model_budget_used', { kind: 'requests' }, 3],
      ['neurovisor_tenant_model_budget_limit', { tenant: 'acme', kind: 'outputTokens' }, 5],
      ['neurovisor_tenant_model_budget_used', { tenant: 'acme', kind: 'outputTokens' }, 2],
    ]);
    clock.advance(HOUR);
    again.note(null, () => null);
    again.note('other', (account) => (account === 'tenant:other' ? useNow() : null));
  }
  // Only use that a window still counts is written.
  const kept = Object.keys(JSON.parse(await readFile(path(), 'utf8')) as object);
  expect(kept).toEqual([...(clock.wall() % (2 * HOUR) < HOUR ? [] : [ACME]), 'tenant:other']);
  expect(errors).toEqual([]);
});

it('ModelBudgets: a use is on disk soon, even if the daemon is killed', async () => {
  await using budgets = await open();
  budgets.note('acme', () => useNow());
  clock.advance(TENANT_LIMITS.savedMs);
  await expect
    .poll(async () => await readFile(path(), 'utf8').catch(() => ''))
    .toContain('"tenant:acme":{"inputTokens":1');
});

it('ModelBudgets: a damaged file is replaced, with a warning in the log', async () => {
  for (const text of ['{', '[]', '{"host":{"window":1}}', '{"host":null}']) {
    await writeFile(path(), text);
    await using budgets = await open();
    expect(budgets.used.size).toBe(0);
  }
  expect(errors).toHaveLength(4);
});

it('ModelBudgets: limits the tenants with series', async () => {
  limits = Object.fromEntries(Array.from({ length: 150 }, (_, n) => [`t${n}`, LIMITS]));
  await using budgets = await open();
  const counts = budgets.metrics().map(({ samples }) => [...samples()].length);
  expect(counts).toEqual([0, 0, TENANT_LIMITS.budgetSeriesMax, TENANT_LIMITS.budgetSeriesMax]);
});
