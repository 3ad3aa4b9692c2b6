import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { FakeClock } from '../base/clock.ts';
import { silentLog } from '../base/log.ts';
import { HostBudget } from './host-budget.ts';
import { TENANT_LIMITS } from './limits.ts';

const HOUR = 3_600_000;
const USE = { inputTokens: 1, outputTokens: 2, requests: 3, costNanoDollars: 4 };

let homeDir: string;
let clock: FakeClock;
const errors: string[] = [];
const log = { ...silentLog, error: (message: string) => void errors.push(message) };
const open = (windowMs = HOUR) =>
  HostBudget.open({ limits: { requests: 9, windowMs }, homeDir, clock, log });
const windowOf = (windowMs: number): number => Math.floor(clock.wall() / windowMs);
beforeEach(async () => {
  homeDir = await mkdtemp(join(tmpdir(), 'nv-host-budget-'));
  clock = new FakeClock();
  errors.length = 0;
});
afterEach(() => rm(homeDir, { recursive: true, force: true }));

async function use(): Promise<void> {
  await using budget = await open();
  expect(budget.used).toBeNull();
  budget.note({ ...USE, window: windowOf(HOUR) });
}

it('HostBudget: a restart keeps what was used in the window, and the next window ends it', async () => {
  await use();
  expect((await stat(join(homeDir, 'model-budget.json'))).mode & 0o777).toBe(0o600);
  {
    await using again = await open();
    expect(again.used).toEqual({ ...USE, window: windowOf(HOUR), windowMs: HOUR });
  }
  clock.advance(HOUR);
  await using next = await open();
  expect(next.used).toBeNull();
  expect(errors).toEqual([]);
});

it('HostBudget: with windows of another length, what was used counts in the one that is now', async () => {
  await use();
  for (const windowMs of [24 * HOUR, 60_000]) {
    await using again = await open(windowMs);
    expect(again.used).toEqual({ ...USE, window: windowOf(windowMs), windowMs });
  }
});

it('HostBudget: a use is on disk soon, also if the daemon is killed', async () => {
  await using budget = await open();
  budget.note({ ...USE, window: windowOf(HOUR) });
  budget.note(null);
  clock.advance(TENANT_LIMITS.tokensSavedMs);
  const path = join(homeDir, 'model-budget.json');
  await expect
    .poll(async () => await readFile(path, 'utf8').catch(() => ''))
    .toContain('"costNanoDollars":4');
});

it('HostBudget: a damaged file begins anew, and the log says so', async () => {
  for (const text of ['{', '{"windowMs":0}', '{"windowMs":1,"used":{"window":-1}}']) {
    await writeFile(join(homeDir, 'model-budget.json'), text);
    await using budget = await open();
    expect(budget.used).toBeNull();
  }
  expect(errors).toHaveLength(3);
});
