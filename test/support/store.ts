/** Stores in temporary directories. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { type Clock, FakeClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { openStore, type Store } from '../../src/sandbox/store/store.ts';

export async function temporaryDir(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'nv-store-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return join(dir, 'data');
}

export async function temporaryStore(
  dir?: string,
  clock: Clock = new FakeClock(),
  basesKeptMs = 0,
): Promise<{ dir: string; store: Store }> {
  const where = dir ?? (await temporaryDir());
  const parts = { dir: where, keyPath: `${where}.key`, clock, log: silentLog };
  const store = await openStore({ ...parts, basesKeptMs });
  onTestFinished(() => store.close());
  return { dir: where, store };
}
