/** The time of a snapshot of a running sandbox, how long the sandbox is stopped, and the snapshot's size. */
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { MIB } from '../../src/base/units.ts';
import type { LocalControlPlane } from '../../src/sandbox/plane/control-plane.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { openBenchControl, pausedMs } from '../control.ts';
import { firstOutputMs } from '../output.ts';

/** Memory written by the sandbox before the snapshot. */
const DIRTY_MIB = [0, 10, 50, 100, 200] as const;
const FIGURES = ['snapshot.time', 'snapshot.still', 'snapshot.size'] as const;

/** For one amount of dirty memory, one value per round. */
interface Samples {
  readonly timeMs: number[];
  readonly stillMs: number[];
  readonly sizeMib: number[];
  readonly writeMs: number[];
}

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
  { runtime, rounds, signal, say }: BenchContext,
  control: LocalControlPlane,
  dir: string,
  dirtyMib: number,
): Promise<Measurement[]> {
  const attempts = new Attempts(signal);
  const samples: Samples = { timeMs: [], stillMs: [], sizeMib: [], writeMs: [] };
  const { id, memoryMib } = await control.create({}, signal);
  try {
    await makeDirty(control, id, dirtyMib, signal);
    // The RAM that a snapshot is based on counts for the oldest one that needs it.
    const { id: oldest } = await control.snapshot(id);
    // In the first round the guest frees its caches; it is not counted.
    for (let round = 0; round <= rounds; round += 1) {
      say(`${dirtyMib} MiB, ${round} of ${rounds}`);
      await attempts.run(() => snapshotOnce(control, id, dir, round === 0 ? null : samples));
    }
    await control.removeSnapshot(oldest);
  } finally {
    await control.remove(id);
  }
  const { accelerator } = runtime.driver;
  const row = (
    figure: (typeof FIGURES)[number],
    unit: 'ms' | 'MiB',
    own: readonly number[],
    baseline: Measurement['baseline'],
    note?: string,
  ): Measurement => ({
    name: `${figure}/${dirtyMib}`,
    unit,
    accelerator,
    samples: own,
    baseline,
    ...attempts.failures(note),
  });
  const { timeMs, stillMs, sizeMib, writeMs } = samples;
  return [
    row('snapshot.time', 'ms', timeMs, { name: 'write and sync as much', samples: writeMs }),
    row('snapshot.still', 'ms', stillMs, { name: 'until it is safe', samples: timeMs }),
    row('snapshot.size', 'MiB', sizeMib, { name: 'RAM of the sandbox', samples: [memoryMib] }),
  ];
}

async function snapshotOnce(control: LocalControlPlane, id: string, dir: string, into: Samples | null): Promise<void> {
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
  into?.timeMs.push(timeMs);
  into?.stillMs.push(stillMs);
  into?.sizeMib.push(bytes / MIB);
  into?.writeMs.push(writeMs);
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
