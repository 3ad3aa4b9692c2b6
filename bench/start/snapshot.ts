/** The time of a snapshot of a running sandbox, how long the sandbox is stopped, and the snapshot's size. */
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { MIB } from '../../src/base/units.ts';
import type { LocalControlPlane } from '../../src/sandbox/plane/control-plane.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { compare, rowsOf } from '../compare.ts';
import { openBenchControl, pausedMs } from '../control.ts';
import { firstOutputMs } from '../output.ts';

/** Memory written by the sandbox before the snapshot. */
const DIRTY_MIB = [0, 10, 50, 100, 200] as const;
const FIGURES = ['snapshot.time', 'snapshot.still', 'snapshot.size'] as const;

export const snapshotBenchmark: Benchmark = {
  names: FIGURES.flatMap((figure) => DIRTY_MIB.map((mib) => `${figure}/${mib}`)),
  summary: 'a snapshot of a running sandbox with N MiB of its own: until it is safe, time stopped, size',
  async measure(context) {
    await using opened = await openBenchControl(context);
    const rows: Measurement[] = [];
    for (const dirtyMib of DIRTY_MIB) {
      if (!FIGURES.some((figure) => context.wants(`${figure}/${dirtyMib}`))) continue;
      rows.push(...(await measureOne(context, opened.control, opened.dir, dirtyMib)));
    }
    return rows;
  },
};

async function measureOne(
  context: BenchContext,
  control: LocalControlPlane,
  dir: string,
  dirtyMib: number,
): Promise<Measurement[]> {
  const { runtime, signal } = context;
  const attempts = new Attempts(signal);
  const { id, memoryMib } = await control.create({}, signal);
  try {
    await makeDirty(control, id, dirtyMib, signal);
    // The RAM that a snapshot is based on counts for the oldest one that needs it.
    const { id: oldest } = await control.snapshot(id);
    // In the first round the guest frees its caches.
    const { own } = await compare(context, `${dirtyMib} MiB,`, {
      own: () => attempts.run(() => snapshotOnce(control, id, dir)),
    });
    await control.removeSnapshot(oldest);
    const [ms, mib] = [rowsOf('ms', runtime.driver.accelerator), rowsOf('MiB', runtime.driver.accelerator)];
    const [written, safe] = [own('write'), own('time')];
    const failures = attempts.failures();
    return [
      ms(`snapshot.time/${dirtyMib}`, safe, ['write and sync as much', written], failures),
      ms(`snapshot.still/${dirtyMib}`, own('still'), ['until it is safe', safe], failures),
      mib(`snapshot.size/${dirtyMib}`, own('sizeMib'), ['RAM of the sandbox', [memoryMib]], failures),
    ];
  } finally {
    await control.remove(id);
  }
}

async function snapshotOnce(control: LocalControlPlane, id: string, dir: string) {
  let timeMs = 0;
  let bytes = 0;
  const stillMs = await pausedMs(control, id, async () => {
    const began = performance.now();
    const snapshot = await control.snapshot(id);
    timeMs = performance.now() - began;
    bytes = snapshot.bytes;
    await control.removeSnapshot(snapshot.id);
  });
  const writeMs = await writeAndSyncMs(join(dir, 'baseline'), bytes);
  return { time: timeMs, still: stillMs, sizeMib: bytes / MIB, write: writeMs };
}

async function writeAndSyncMs(path: string, bytes: number): Promise<number> {
  const block = Buffer.alloc(MIB, 1);
  const began = performance.now();
  try {
    await using file = await open(path, 'wx');
    for (let left = bytes; left > 0; left -= block.length) {
      await file.write(block, 0, Math.min(left, block.length));
    }
    await file.sync();
    return performance.now() - began;
  } finally {
    await rm(path, { force: true });
  }
}

/** Fills memory with non-zero pages, which a snapshot must write. */
export async function makeDirty(
  control: LocalControlPlane,
  id: string,
  mib: number,
  signal: AbortSignal,
): Promise<void> {
  const code = `
with open('/dev/shm/dirty', 'wb') as file:
    for _ in range(${mib}):
        file.write(b'\\x5a' * ${MIB})
print(file.closed)`;
  const guest = await control.guest(id);
  await firstOutputMs(() => guest.python({ script: { code }, stdin: false }, signal), 'True\n');
}
