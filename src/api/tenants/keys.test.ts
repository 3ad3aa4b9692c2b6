import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeClock, systemClock } from '../../base/clock.ts';
import { KeyStore } from './keys.ts';

let home: string;
let store: KeyStore;

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'nv-keys-'));
  store = new KeyStore(home, systemClock);
});
afterEach(() => rmSync(home, { recursive: true, force: true }));

const pathOf = (id: string): string => join(home, 'keys', `${id}.json`);

describe('KeyStore', () => {
  it('creates keys that older clients of E2B accept', () => {
    const { key } = store.create('acme', null);
    expect(key).toMatch(/^e2b_[0-9a-f]{48}$/);
  });

  it('keeps only the digest of a key, in files that only their owner can read', () => {
    const { key, id } = store.create('acme', 'ci');
    expect(readdirSync(join(home, 'keys'))).toEqual([`${id}.json`]);
    const text = readFileSync(pathOf(id), 'utf8');
    expect(text).not.toContain(key.slice(4, 20));
    expect(statSync(pathOf(id)).mode & 0o777).toBe(0o600);
    expect(statSync(join(home, 'keys')).mode & 0o777).toBe(0o700);
  });

  it('lists keys without their digests, including revoked ones', () => {
    const first = store.create('acme', 'ci');
    const second = store.create('beta', null);
    store.revoke(first.id);
    const list = store.list();
    expect(list.map(({ id }) => id).sort()).toEqual([first.id, second.id].sort());
    expect(JSON.stringify(list)).not.toContain('sha256');
    expect(list.find(({ id }) => id === first.id)?.revokedAtMs).not.toBeNull();
  });

  it.each(['', 'A', '../x', 'a/b', 'a.b', 'x'.repeat(32), 'a\n'])('refuses the tenant name %j', (name) => {
    expect(() => store.create(name, null)).toThrow('not a valid tenant name');
  });

  it.each(['', 'x'.repeat(65)])('refuses the label %j', (label) => {
    expect(() => store.create('acme', label)).toThrow("a key's name");
  });

  it.each(['../../api-key', 'aaaaaaaaaaaa', ''])('revoke: refuses the unknown key %j', (id) => {
    store.create('acme', null);
    expect(() => store.revoke(id)).toThrow('there is no key');
  });
});

describe('KeyStore: access', () => {
  it('distinguishes a tenant from an earlier one of the same name', () => {
    const { id } = store.create('acme', null);
    const first = store.incarnationOf('acme');
    store.create('acme', null);
    store.create('beta', null);
    expect(store.incarnationOf('acme')).toBe(first);
    expect(store.incarnationOf('beta')).not.toBe(first);
    for (const one of store.list()) if (one.tenant === 'acme') store.revoke(one.id);
    const none = store.incarnationOf('acme');
    store.create('acme', null);
    const later = store.incarnationOf('acme');
    expect(new Set([first, none, later]).size).toBe(3);
    expect(first).toContain(id);
  });

  it('accepts a key from its creation to its revocation, also after a restart', () => {
    expect([store.identify('e2b_00'), store.hasTenants()]).toEqual([null, false]);
    const { key, id } = store.create('acme', null);
    const second = store.create('beta', null);
    const again = () => new KeyStore(home, systemClock);
    for (const one of [store, again()]) {
      expect(one.identify(key)).toEqual({ tenant: 'acme', key: id });
      expect(one.identify(second.key)?.tenant).toBe('beta');
    }
    store.revoke(id);
    for (const one of [store, again()]) {
      expect(one.identify(key)).toBeNull();
      expect(one.identify(second.key)?.tenant).toBe('beta');
      expect(one.hasTenants()).toBe(true);
    }
    store.revoke(second.id);
    expect([store.hasTenants(), again().hasTenants()]).toEqual([false, false]);
  });

  it('reports each revocation once, after which the key is refused', () => {
    const { key, id } = store.create('acme', null);
    const seen: unknown[] = [];
    const stop = store.onEnd((one) => seen.push([one, store.identify(key)]));
    store.revoke(id);
    store.revoke(id);
    stop();
    store.revoke(store.create('acme', null).id);
    expect(seen).toEqual([[id, null]]);
  });

  it('a key that could not be written is not accepted, and one that could not be revoked stays', () => {
    const { key, id } = store.create('acme', null);
    rmSync(join(home, 'keys'), { recursive: true });
    writeFileSync(join(home, 'keys'), '');
    expect(() => store.create('acme', null)).toThrow('could not write the key');
    expect(() => store.revoke(id)).toThrow('could not write the key');
    expect(store.identify(key)).toEqual({ tenant: 'acme', key: id });
    expect(store.list()).toHaveLength(1);
  });

  it('does not open with a file that was changed by hand, or renamed to another key’s id', () => {
    const { id } = store.create('acme', null);
    const other = store.create('beta', null);
    const text = readFileSync(pathOf(id), 'utf8');
    const others = readFileSync(pathOf(other.id), 'utf8');
    for (const damaged of ['', '{', text.replace('acme', '../x'), 'x'.repeat(5000), others]) {
      writeFileSync(pathOf(id), damaged);
      expect(() => new KeyStore(home, systemClock)).toThrow(`could not read the key ${id}`);
    }
    writeFileSync(pathOf(id), text);
    expect(new KeyStore(home, systemClock).list()).toHaveLength(2);
  });
});

describe('KeyStore: keys that expire', () => {
  const DAY_MS = 24 * 3600 * 1000;

  it('refuses one from its end on, tells listeners of it once, and keeps it in the list', () => {
    const clock = new FakeClock();
    const keys = new KeyStore(home, clock);
    const ended: string[] = [];
    const stop = keys.onEnd((id) => ended.push(id));
    const long = keys.create('acme', null, 30 * DAY_MS);
    const short = keys.create('beta', null, DAY_MS);
    expect(keys.create('beta', null).expiresAtMs).toBeNull();
    expect(short.expiresAtMs).toBe(clock.wall() + DAY_MS);
    clock.advance(DAY_MS - 1);
    expect([keys.identify(short.key)?.key, ended]).toEqual([short.id, []]);
    clock.advance(1);
    expect([keys.identify(short.key), ended]).toEqual([null, [short.id]]);
    expect(new KeyStore(home, clock).identify(short.key)).toBeNull();
    clock.advance(29 * DAY_MS);
    expect([keys.identify(long.key), ended]).toEqual([null, [short.id, long.id]]);
    expect(keys.list()).toHaveLength(3);
    stop();
  });

  it.each([0, 999, Number.NaN, 11 * 365 * DAY_MS])('refuses to end one after %d ms', (ms) => {
    expect(() => store.create('acme', null, ms)).toThrow('a key expires after a second to ten years');
    expect(store.list()).toEqual([]);
  });

  it('reads the file of a key from before keys could expire', () => {
    const { id, key } = store.create('acme', null);
    const { expiresAtMs: _none, ...older } = JSON.parse(readFileSync(pathOf(id), 'utf8')) as Record<string, unknown>;
    writeFileSync(pathOf(id), JSON.stringify(older));
    const again = new KeyStore(home, systemClock);
    expect([again.identify(key)?.key, again.list()[0]?.expiresAtMs]).toEqual([id, null]);
  });
});
