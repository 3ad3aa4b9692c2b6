import { linkSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { eraseFile, ownerKeyPath } from '../../base/key-file.ts';
import { OwnerKeys } from './owner-keys.ts';
import { sealingWith } from './sealing.ts';

const sealing = sealingWith(new Uint8Array(32).fill(7));
let dir = '';
let keys: OwnerKeys;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-keys-'));
  keys = new OwnerKeys(join(dir, 'data.keys'), sealing);
});
afterEach(() => rmSync(dir, { recursive: true }));

describe('OwnerKeys', () => {
  it('of: one key for each owner, also for concurrent callers, and not in plain', async () => {
    const other = new OwnerKeys(join(dir, 'data.keys'), sealing);
    const all = await Promise.all([keys.of('operator'), other.of('operator'), keys.of('operator')]);
    expect(new Set(all.map(({ bytes }) => Buffer.from(bytes).toString('hex'))).size).toBe(1);
    const [one] = all;
    expect((await keys.of('tenant a')).id).not.toBe(one?.id);
    expect(readdirSync(join(dir, 'data.keys')).sort()).toEqual(['operator', 'tenant.a']);
    const file = readFileSync(join(dir, 'data.keys/operator'));
    expect(file.includes(Buffer.from(one?.bytes ?? []))).toBe(false);
    expect(file.includes(Buffer.from(one?.bytes ?? []).toString('base64'))).toBe(false);
  });

  it('withId: the key with this fingerprint, and no other of the owner', async () => {
    const key = await keys.of('operator');
    expect(keys.withId(key.id)?.bytes).toEqual(key.bytes);
    for (const id of ['operator', 'operator:0', `other:${key.id.split(':')[1]}`, '../data.key:0', '', ':']) {
      expect(keys.withId(id)).toBeUndefined();
    }
  });

  it('eraseFile: the key is overwritten, and the owner’s next key is another', async () => {
    const key = await keys.of('tenant a');
    const path = join(dir, 'data.keys/tenant.a');
    linkSync(path, join(dir, 'same'));
    expect(await eraseFile(ownerKeyPath(join(dir, 'data.keys'), 'tenant a'))).toBe(true);
    expect(readFileSync(join(dir, 'same')).every((byte) => byte === 0)).toBe(true);
    expect(keys.withId(key.id)).toBeUndefined();
    expect((await keys.of('tenant a')).id).not.toBe(key.id);
    expect(keys.withId(key.id)).toBeUndefined();
    expect(await eraseFile(ownerKeyPath(join(dir, 'data.keys'), 'tenant b'))).toBe(false);
  });

  it('a key that was sealed with another data.key is refused, never replaced', async () => {
    await keys.of('operator');
    const before = readFileSync(join(dir, 'data.keys/operator'));
    const other = new OwnerKeys(join(dir, 'data.keys'), sealingWith(new Uint8Array(32).fill(8)));
    await expect(other.of('operator')).rejects.toMatchObject({ code: 'store_unavailable' });
    expect(readFileSync(join(dir, 'data.keys/operator')).equals(before)).toBe(true);
  });
});
