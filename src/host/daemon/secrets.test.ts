import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { apiKey, tokenKey } from './secrets.ts';

let home: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'nv-daemon-keys-'));
});
afterEach(() => rmSync(home, { recursive: true, force: true }));

it('creates each secret once, in a file that only its owner can read, and leaves nothing else', async () => {
  const { key, path } = await apiKey(null, home);
  const token = await tokenKey(home);
  expect(key).toMatch(/^e2b_[0-9a-f]{48}$/);
  expect(token).toHaveLength(32);
  expect(await apiKey(null, home)).toEqual({ key, path });
  expect(await tokenKey(home)).toEqual(token);
  expect(readdirSync(home).sort()).toEqual(['api-key', 'token-key']);
  expect(statSync(join(home, 'token-key')).mode & 0o777).toBe(0o600);
});

it.each(['', '\n', 'ab', `${'0'.repeat(62)}zz`])('rejects a file with %j as the token key', async (text) => {
  writeFileSync(join(home, 'token-key'), text);
  await expect(tokenKey(home)).rejects.toThrow('the file is damaged');
});

it.each(['', '\n', 'two words'])('rejects a file with %j as the API key', async (text) => {
  writeFileSync(join(home, 'api-key'), text);
  await expect(apiKey(null, home)).rejects.toThrow('the file is damaged');
  expect(readFileSync(join(home, 'api-key'), 'utf8')).toBe(text);
});
