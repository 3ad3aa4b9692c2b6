/** The time to pause and resume a sandbox, in memory and to disk. */
import type { LocalControlPlane } from '../../src/sandbox/plane/control-plane.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark } from '../benchmark.ts';
import { openBenchControl } from '../control.ts';
import { printOneMs } from '../output.ts';
import { type StartSamples, startOnce } from './clone.ts';
import { makeDirty } from './snapshot.ts';

const DIRTY_MIB = 50;
const PLACES = ['memory', 'disk'] as const;

interface Samples {
  readonly pauseMs: number[];
  readonly resumeMs: number[];
}

export const pauseBenchmark: Benchmark = {
  names: ['pause.time', 'resume.time'].flatMap((figure) => PLACES.map((to) => `${figure}/${to}`)),
  summary: `pause and resume of a sandbox with ${DIRTY_MIB} MiB of its own, in place and to disk`,
  async measure(context) {
    const { runtime, rounds, signal, say } = context;
    await using opened = await openBenchControl(context);
    const { control } = opened;
    const attempts = { memory: new Attempts(signal), disk: new Attempts(signal) };
    const memory: Samples = { pauseMs: [], resumeMs: [] };
    const disk: Samples = { pauseMs: [], resumeMs: [] };
    const boot: StartSamples = { ready: [], output: [] };
    const { id } = await control.create({}, signal);
    await makeDirty(control, id, DIRTY_MIB, signal);
    // The first round fills the page cache and is not counted.
    for (let round = 0; round <= rounds; round += 1) {
      say(`pause ${round} of ${rounds}`);
      for (const [to, samples] of [
        ['memory', memory],
        ['disk', disk],
      ] as const) {
        const into = round === 0 ? null : samples;
        await attempts[to].run(() => pauseOnce(context, control, { id, to }, into));
      }
      await startOnce(context, 'boot', round === 0 ? null : boot);
    }
    const { accelerator } = runtime.driver;
    const base = { unit: 'ms' as const, accelerator };
    const resume = { ...base, baseline: { name: 'boot.hello', samples: boot.ready } };
    return [
      {
        ...base,
        name: 'pause.time/memory',
        samples: memory.pauseMs,
        baseline: null,
        ...attempts.memory.failures('no baseline: the processors stop, and nothing is written'),
      },
      {
        ...base,
        name: 'pause.time/disk',
        samples: disk.pauseMs,
        baseline: { name: 'pause.time/memory', samples: memory.pauseMs },
        ...attempts.disk.failures('until it is safe and the memory is freed'),
      },
      { ...resume, name: 'resume.time/memory', samples: memory.resumeMs, ...attempts.memory.failures() },
      { ...resume, name: 'resume.time/disk', samples: disk.resumeMs, ...attempts.disk.failures() },
    ];
  },
};

/** Fails unless the sandbox works afterwards. */
async function pauseOnce(
  { signal }: BenchContext,
  control: LocalControlPlane,
  { id, to }: { readonly id: string; readonly to: 'memory' | 'disk' },
  into: Samples | null,
): Promise<void> {
  const began = performance.now();
  await control.pause(id, to);
  const paused = performance.now();
  await control.resume(id, { signal });
  const resumed = performance.now();
  await printOneMs(await control.guest(id), signal);
  into?.pauseMs.push(paused - began);
  into?.resumeMs.push(resumed - paused);
}
