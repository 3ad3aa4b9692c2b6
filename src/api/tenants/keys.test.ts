import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../base/clock.ts';
import { type Log, silentLog } from '../../base/log.ts';
import { KeyStore, KnownKeys } from './keys.ts';

let home: string;
let warnings: string[];
let store: KeyStore;
let known: KnownKeys;

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'nv-keys-'));
  warnings = [];
  const log: Log = { ...silentLog, warn: (message) => warnings.push(message) };
  store = new KeyStore(home, systemClock);
  known = new KnownKeys(home, systemClock, log);
});
afterEach(() => rmSync(home, { recursive: true, force: true }));

const pathOf = (id: string): string => join(home, 'keys', `${id}.json`);

describe('KeyStore', () => {
  it('creates keys that older clients of E2B accept', () => {
    const { key } = store.create('acme', null);
    expect(key).toMatch(/^e2b_[0-9a-f]{48}$/);
  });

  it('keeps only the digest of a key, in files that only their owner can read', () => {
    const { key, info } = store.create('acme', 'ci');
    expect(readdirSync(join(home, 'keys'))).toEqual([`${info.id}.json`]);
    const text = readFileSync(pathOf(info.id), 'utf8');
    expect(text).not.toContain(key.slice(4, 20));
    expect(statSync(pathOf(info.id)).mode & 0o777).toBe(0o600);
    expect(statSync(join(home, 'keys')).mode & 0o777).toBe(0o700);
  });

  it('lists keys without their digests, including revoked ones', () => {
    const first = store.create('acme', 'ci').info;
    const second = store.create('beta', null).info;
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

describe('KnownKeys', () => {
  it('distinguishes a tenant from an earlier one of the same name', () => {
    const { id } = store.create('acme', null).info;
    const first = known.incarnationOf('acme');
    store.create('acme', null);
    store.create('beta', null);
    expect(known.incarnationOf('acme')).toBe(first);
    expect(known.incarnationOf('beta')).not.toBe(first);
    for (const one of store.list()) if (one.tenant === 'acme') store.revoke(one.id);
    const none = known.incarnationOf('acme');
    store.create('acme', null);
    const later = known.incarnationOf('acme');
    expect(new Set([first, none, later]).size).toBe(3);
    expect(first).toContain(id);
  });

  it('knows a key from its creation to its revocation, without a restart', () => {
    expect(known.identify('e2b_00')).toBeNull();
    const { key, info } = store.create('acme', null);
    expect(known.identify(key)).toEqual({ tenant: 'acme', key: info.id });
    const second = store.create('beta', null);
    expect(known.identify(second.key)?.tenant).toBe('beta');
    store.revoke(info.id);
    expect(known.identify(key)).toBeNull();
    expect(known.identify(second.key)?.tenant).toBe('beta');
  });

  it('notices changes within one tick of the file system’s clock', () => {
    for (let n = 0; n < 50; n += 1) {
      const { key, info } = store.create('acme', null);
      expect(known.identify(key)).not.toBeNull();
      store.revoke(info.id);
      expect(known.identify(key)).toBeNull();
    }
  });

  it('ignores a file that was changed by hand, and no other', () => {
    const { key, info } = store.create('acme', null);
    const other = store.create('beta', null);
    const text = readFileSync(pathOf(info.id), 'utf8');
    for (const damaged of ['', '{', text.replace('acme', '../x'), 'x'.repeat(5000)]) {
      writeFileSync(pathOf(info.id), damaged);
      expect(known.identify(key)).toBeNull();
      expect(known.identify(other.key)?.tenant).toBe('beta');
    }
    expect(warnings).not.toEqual([]);
  });

  it('reads a file again that the system could not read, though the directory has not changed', () => {
    const { key, info } = store.create('acme', null);
    const text = readFileSync(pathOf(info.id), 'utf8');
    const change = (act: () => void): void => {
      rmSync(pathOf(info.id), { recursive: true });
      act();
      utimesSync(join(home, 'keys'), 1_000_000, 1_000_000);
    };
    change(() => mkdirSync(pathOf(info.id)));
    expect(known.identify(key)).toBeNull();
    expect(known.identify(key)).toBeNull();
    expect(known.isRevoked(info.id)).toBe(false);
    expect(warnings).toHaveLength(1);
    change(() => writeFileSync(pathOf(info.id), text));
    expect(known.identify(key)).not.toBeNull();
    rmSync(pathOf(info.id));
    expect(known.isRevoked(info.id)).toBe(true);
  });

  it('ignores a file renamed to another key’s id', () => {
    const { info } = store.create('acme', null);
    const other = store.create('beta', null);
    writeFileSync(pathOf(info.id), readFileSync(pathOf(other.info.id), 'utf8'));
    expect(() => store.list()).toThrow('could not read the key');
    expect(known.identify(other.key)?.tenant).toBe('beta');
  });
});
