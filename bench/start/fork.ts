/** The time until N forks of a running sandbox are ready, and how long the parent is stopped. */
import type { SandboxInfo } from '../../src/sandbox/contract/control.ts';
import type { LocalControlPlane } from '../../src/sandbox/plane/control-plane.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { rowsOf } from '../compare.ts';
import { openBenchControl, pausedMs } from '../control.ts';
import { makeDirty } from './snapshot.ts';

const COUNTS = [1, 4, 16] as const;
const FIGURES = ['fork.ready', 'fork.each', 'fork.still'] as const;
const DIRTY_MIB = 50;

interface Samples {
  readonly forks: { readonly allMs: number[]; readonly eachMs: number[] };
  readonly clones: { readonly allMs: number[]; readonly eachMs: number[] };
  readonly stillMs: number[];
}

export const forkBenchmark: Benchmark = {
  names: FIGURES.flatMap((figure) => COUNTS.map((count) => `${figure}/${count}`)),
  summary: `N forks of a running sandbox with ${DIRTY_MIB} MiB of its own: until all, and each, are ready`,
  async measure(context) {
    const { signal } = context;
    await using opened = await openBenchControl(context);
    const { control } = opened;
    const { id } = await control.create({}, signal);
    await makeDirty(control, id, DIRTY_MIB, signal);
    const rows: Measurement[] = [];
    for (const count of COUNTS) {
      if (!FIGURES.some((figure) => context.wants(`${figure}/${count}`))) continue;
      rows.push(...(await measureOne(context, control, id, count)));
    }
    return rows;
  },
};

async function measureOne(
  context: BenchContext,
  control: LocalControlPlane,
  parent: string,
  count: number,
): Promise<Measurement[]> {
  const { runtime, rounds, signal, say } = context;
  const attempts = { all: new Attempts(signal), each: new Attempts(signal) };
  const samples: Samples = { forks: { allMs: [], eachMs: [] }, clones: { allMs: [], eachMs: [] }, stillMs: [] };
  // The first round fills the page cache and is not counted.
  for (let round = 0; round <= rounds; round += 1) {
    say(`${count} at once, ${round} of ${rounds}`);
    const into = round === 0 ? null : samples;
    await attempts.all.run(() => forkOnce(control, parent, count, attempts.each, into));
    await cloneOnce(context, control, count, into);
  }
  const { accelerator } = runtime.driver;
  const { forks, clones, stillMs } = samples;
  const row = rowsOf('ms', accelerator);
  const ofClones = `${count} of the template at once`;
  const turns = 'from the moment when the parent may resume; includes waiting for its turn';
  const all = attempts.all.failures();
  return [
    row(`fork.ready/${count}`, forks.allMs, [ofClones, clones.allMs], all),
    row(`fork.each/${count}`, forks.eachMs, [ofClones, clones.eachMs], attempts.each.failures(turns)),
    row(`fork.still/${count}`, stillMs, ['all are ready', forks.allMs], all),
  ];
}

/** @throws unless all forks become ready */
async function forkOnce(
  control: LocalControlPlane,
  parent: string,
  count: number,
  each: Attempts,
  into: Samples | null,
): Promise<void> {
  let allMs = 0;
  const made: SandboxInfo[] = [];
  const failures: string[] = [];
  try {
    const stillMs = await pausedMs(control, parent, async () => {
      const began = performance.now();
      const results = await control.fork(parent, { count });
      allMs = performance.now() - began;
      for (const result of results) {
        if (result.ok) made.push(result.sandbox);
        else failures.push(`${result.code}: ${result.message}`);
      }
    });
    for (const failure of failures) each.count(failure);
    into?.forks.eachMs.push(...readyTimes(made));
    if (failures[0] !== undefined) throw new Error(failures[0]);
    into?.forks.allMs.push(allMs);
    into?.stillMs.push(stillMs);
  } finally {
    await removeAll(control, made);
  }
}

async function cloneOnce(
  { signal }: BenchContext,
  control: LocalControlPlane,
  count: number,
  into: Samples | null,
): Promise<void> {
  const began = performance.now();
  const starting = Array.from({ length: count }, () => control.create({}, signal));
  const outcomes = await Promise.allSettled(starting);
  const allMs = performance.now() - began;
  const made = outcomes.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
  await removeAll(control, made);
  for (const one of outcomes) if (one.status === 'rejected') throw one.reason;
  into?.clones.allMs.push(allMs);
  into?.clones.eachMs.push(...readyTimes(made));
}

function readyTimes(sandboxes: readonly SandboxInfo[]): number[] {
  return sandboxes.flatMap(({ readyMs }) => (readyMs === null ? [] : [readyMs]));
}

async function removeAll(control: LocalControlPlane, sandboxes: readonly SandboxInfo[]): Promise<void> {
  await Promise.all(sandboxes.map(({ id }) => control.remove(id)));
}
