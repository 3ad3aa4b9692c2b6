import { linkSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { KIB } from '../../base/units.ts';
import { diskUsage } from './usage.ts';

it('diskUsage: each kind has its files, a file with two names counts once, the rest is other', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'nv-df-'));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  mkdirSync(join(dir, 'cache/template/key'), { recursive: true });
  mkdirSync(join(dir, 'cache/oci'));
  mkdirSync(join(dir, 'cache/strange'));
  writeFileSync(join(dir, 'cache/template/key/memory'), Buffer.alloc(256 * KIB, 1));
  linkSync(join(dir, 'cache/template/key/memory'), join(dir, 'cache/template/key/again'));
  writeFileSync(join(dir, 'cache/strange/x'), Buffer.alloc(128 * KIB, 1));
  mkdirSync(join(dir, 'audit/models'), { recursive: true });
  mkdirSync(join(dir, 'cache/e2b-uploads/acme'), { recursive: true });
  for (const path of ['events.db', 'audit/models/audit.jsonl', 'cache/e2b-uploads/acme/x'])
    writeFileSync(join(dir, path), Buffer.alloc(300 * KIB, 1));
  const bytesOf = new Map((await diskUsage({ dir })).map(({ kind, bytes }) => [kind, bytes]));
  expect(bytesOf.get('templates')).toBeGreaterThanOrEqual(256 * KIB);
  expect(bytesOf.get('templates')).toBeLessThan(512 * KIB);
  expect(bytesOf.get('images')).toBeLessThan(64 * KIB);
  for (const kind of ['E2B uploads', 'events', 'audit logs'] as const)
    expect(bytesOf.get(kind), kind).toBeGreaterThanOrEqual(300 * KIB);
  expect(bytesOf.get('models')).toBe(0);
  expect(bytesOf.get('other')).toBeGreaterThanOrEqual(128 * KIB);
  expect(bytesOf.get('other')).toBeLessThan(256 * KIB);
});

it('diskUsage: a home that does not exist is all zeros', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'nv-df-'));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  const usage = await diskUsage({ dir: join(dir, 'none') });
  expect(usage.every(({ bytes }) => bytes === 0)).toBe(true);
});
