/** Processes that use one store at once and are killed at any moment. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect, it } from 'vitest';
import { sleep } from '../../src/base/clock.ts';
import { isFullRun } from '../support/full-run.ts';
import { randomFrom, runSeed } from '../support/run-seed.ts';
import { holdsSeed, named, onDisk } from '../support/snapshots.ts';
import { temporaryDir, temporaryStore } from '../support/store.ts';

/** Two processes are killed per round. */
const ROUNDS = isFullRun() ? 25 : 10;
const TIMEOUT = { timeout: 300_000 };
/** Lifetime in output lines, plus a part of the next action. */
const LINES_MAX = 16;
const ACTION_MS_MAX = 30;

const random = randomFrom(runSeed());
const below = (n: number): number => Math.floor(random() * n);

/** Runs the fixture and kills it after a random time. @returns its output lines */
async function killedChurn(dir: string): Promise<string[]> {
  const child = spawn(
    process.execPath,
    [join(import.meta.dirname, '../fixtures/store-churn.ts'), dir, `${below(2 ** 31)}`],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const lines: string[] = [];
  const restMs = random() * ACTION_MS_MAX;
  const life = 1 + below(LINES_MAX);
  const reached = Promise.withResolvers<void>();
  const reader = createInterface({ input: child.stdout });
  reader.on('line', (line) => {
    lines.push(line);
    if (lines.length >= life) reached.resolve();
  });
  const closed = once(reader, 'close');
  await Promise.race([reached.promise, closed]);
  await sleep(restMs);
  child.kill('SIGKILL');
  await closed;
  return lines;
}

it('store: kill -9 at any moment loses no finished snapshot and leaves no partial one', TIMEOUT, async () => {
  const dir = await temporaryDir();
  /** Reported as finished and not being removed: id → seed; sandbox → its snapshot. */
  const finished = new Map<string, number>();
  const paused = new Map<string, string>();
  for (let round = 0; round < ROUNDS; round += 1) {
    const lines = (await Promise.all([killedChurn(dir), killedChurn(dir)])).flat();
    expect(lines.filter((line) => line.startsWith('!'))).toEqual([]);
    for (const line of lines) {
      const [id = '', second = '', third = ''] = line.slice(1).split(' ');
      if (line.startsWith('+')) finished.set(id, Number(second));
      if (line.startsWith('p')) finished.set(id, Number(third));
      if (line.startsWith('p')) paused.set(second, id);
      if (line.startsWith('-') || line.startsWith('r')) finished.delete(id);
      if (line.startsWith('r')) paused.delete(second);
    }
    const { store } = await temporaryStore(dir);
    const rows = await store.snapshots.list();
    expect(rows.map(({ id }) => id)).toEqual(expect.arrayContaining([...finished.keys()]));
    for (const { id } of rows) {
      // Including snapshots whose line was never printed.
      await using opened = await store.snapshots.open(id);
      const seed = finished.get(id);
      if (seed !== undefined) expect(await holdsSeed(opened.paths, seed)).toBe(true);
    }
    for (const [sandbox, pausedSnapshotId] of paused) {
      expect(await store.sandboxes.get(sandbox)).toMatchObject({ status: 'paused', pausedSnapshotId });
    }
    const disk = await onDisk(dir);
    expect(disk).toMatchObject({ files: await named(store), trash: [] });
    expect(disk.staging).toHaveLength(1);
    await store.close();
    expect((await onDisk(dir)).staging).toEqual([]);
  }
});
