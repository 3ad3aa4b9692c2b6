import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { eventually } from '../../../../test/support/eventually.ts';
import { FakeClock } from '../../../base/clock.ts';
import { UNUSED_MS_MAX } from './parts.ts';
import { SharedRam } from './shared-ram.ts';

let dir = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-ram-'));
  mkdirSync(join(dir, 'run'), { mode: 0o700 });
  writeFileSync(join(dir, 'ram'), 'one');
});
afterEach(() => rmSync(dir, { recursive: true }));

const files = (): string[] =>
  readdirSync(join(dir, 'run'), { recursive: true, encoding: 'utf8' })
    .map((path) => basename(path))
    .filter((name) => name.startsWith('ram-'));

it('a tenant’s file is removed a minute after its last clone ended; the next clone gets another', async () => {
  const clock = new FakeClock();
  const shared = new SharedRam(join(dir, 'run'), clock);
  const copy = await shared.copy({ path: join(dir, 'ram') });
  const ours = await copy.open('us');
  const theirs = await copy.open('them');
  expect(files()).toEqual(['ram-1', 'ram-2']);
  await theirs.close();
  clock.advance(UNUSED_MS_MAX - 1);
  const again = await copy.open('them');
  clock.advance(2 * UNUSED_MS_MAX);
  expect([again.path, readFileSync(again.path, 'utf8')]).toEqual([theirs.path, 'one']);
  await Promise.all([ours.close(), again.close()]);
  clock.advance(UNUSED_MS_MAX);
  await eventually(() => expect(files()).toEqual(['ram-1']));
  const later = await copy.open('them');
  expect(readFileSync(later.path, 'utf8')).toBe('one');
  expect(files()).toEqual(['ram-1', 'ram-3']);
  await copy.drop();
  await later.close();
  clock.advance(UNUSED_MS_MAX);
  expect(files()).toEqual([]);
  await shared.close();
});
