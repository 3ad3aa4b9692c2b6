import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { FakeClock } from '../base/clock.ts';
import { silentLog } from '../base/log.ts';
import { DAY_MS, DailyTokens } from './daily-tokens.ts';
import { TENANT_LIMITS } from './limits.ts';

let homeDir: string;
const clock = new FakeClock();
const errors: string[] = [];
const log = { ...silentLog, error: (message: string) => void errors.push(message) };
const open = () => DailyTokens.open({ homeDir, clock, log });
beforeEach(async () => {
  homeDir = await mkdtemp(join(tmpdir(), 'nv-tokens-'));
  errors.length = 0;
});
afterEach(() => rm(homeDir, { recursive: true, force: true }));

it('DailyTokens: a restart keeps the count of the day, and midnight (UTC) ends it', async () => {
  {
    await using tokens = await open();
    tokens.add('acme', 5);
    tokens.add('acme', 2);
    tokens.add('other', 1);
  }
  expect((await stat(join(homeDir, 'tokens.json'))).mode & 0o777).toBe(0o600);
  await using again = await open();
  expect([again.of('acme'), again.of('other'), again.of('none')]).toEqual([7, 1, 0]);
  clock.advance(DAY_MS);
  expect(again.of('acme')).toBe(0);
  await using nextDay = await open();
  expect(nextDay.of('acme')).toBe(0);
});

it('DailyTokens: a count is on disk soon, also if the daemon is killed', async () => {
  await using tokens = await open();
  tokens.add('acme', 5);
  clock.advance(TENANT_LIMITS.tokensSavedMs);
  const path = join(homeDir, 'tokens.json');
  await expect.poll(async () => await readFile(path, 'utf8').catch(() => '')).toContain('"acme":5');
});

it('DailyTokens: a damaged file and a disk that takes nothing are said once, and stop nothing', async () => {
  await writeFile(join(homeDir, 'tokens.json'), '{');
  await using tokens = await open();
  expect(errors).toEqual([expect.stringContaining('begins anew')]);
  await rm(homeDir, { recursive: true });
  for (const _ of [1, 2]) {
    tokens.add('acme', 5);
    clock.advance(TENANT_LIMITS.tokensSavedMs);
  }
  expect(tokens.of('acme')).toBe(10);
  await tokens[Symbol.asyncDispose]();
  expect(errors.slice(1)).toEqual(['the count of today’s tokens can’t be written']);
});
