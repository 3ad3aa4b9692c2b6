import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openSealing, sealingWith } from './sealing.ts';

const TEXT = '{"spec":{"secrets":[{"value":"sk-1234"}]}}';
const key = new Uint8Array(32).fill(7);

describe('sealingWith', () => {
  const sealing = sealingWith(key);
  it('seal: hides the text, differs each time, and unseals for the same id only', () => {
    const [one, two] = [sealing.seal(TEXT, 'a'), sealing.seal(TEXT, 'a')];
    expect(one).not.toBe(two);
    expect(Buffer.from(JSON.parse(one).sealed, 'base64').toString('latin1')).not.toContain('sk-1234');
    expect([sealing.unseal(one, 'a'), sealing.unseal(two, 'a')]).toEqual([TEXT, TEXT]);
    expect(sealing.unseal(one, 'b')).toBeNull();
  });
  it('unseal: refuses each altered byte, a truncated text and another key', () => {
    const { sealed, key: id } = JSON.parse(sealing.seal('abc', 'a')) as Record<string, string>;
    const bytes = Buffer.from(sealed ?? '', 'base64');
    const as = (changed: Uint8Array): string =>
      JSON.stringify({ sealed: Buffer.from(changed).toString('base64'), key: id });
    for (let at = 0; at < bytes.length; at += 1) {
      const changed = Buffer.from(bytes);
      changed[at] = (changed[at] ?? 0) ^ 1;
      expect(sealing.unseal(as(changed), 'a')).toBeNull();
      expect(sealing.unseal(as(bytes.subarray(0, at)), 'a')).toBeNull();
    }
    expect(sealing.unseal(as(bytes), 'a')).toBe('abc');
    expect(sealingWith(new Uint8Array(32).fill(8)).unseal(as(bytes), 'a')).toBeNull();
  });
  it.each(['null', '{}', '{"sealed":"!","key":"x"}', TEXT])('unseal: refuses %s', (json) => {
    expect(sealing.unseal(json, 'a')).toBeNull();
  });
});

describe('openSealing', () => {
  let dir: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'nv-key-'));
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  it('openSealing: concurrent callers make one private key', async () => {
    const path = join(dir, 'data.key');
    const all = await Promise.all([1, 2, 3].map(() => openSealing(path)));
    expect(new Set(all.map(({ keyId }) => keyId)).size).toBe(1);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(readFileSync(path)).toHaveLength(32);
  });
  it('openSealing: refuses a key that others can read, a link and a truncated key', async () => {
    const path = join(dir, 'data.key');
    const refused = { code: 'store_unavailable', remedy: expect.stringContaining(path) };
    writeFileSync(path, key, { mode: 0o600 });
    chmodSync(path, 0o640);
    await expect(openSealing(path)).rejects.toMatchObject(refused);
    writeFileSync(path, 'short', { mode: 0o600 });
    chmodSync(path, 0o600);
    await expect(openSealing(path)).rejects.toMatchObject(refused);
    rmSync(path);
    symlinkSync('/dev/zero', path);
    await expect(openSealing(path)).rejects.toMatchObject(refused);
  });
});
