/** The time to pause and resume a sandbox, in memory and to disk. */
import type { LocalControlPlane } from '../../src/sandbox/plane/control-plane.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark } from '../benchmark.ts';
import { compare, rowsOf } from '../compare.ts';
import { openBenchControl } from '../control.ts';
import { printOneMs } from '../output.ts';
import { startOnce } from './clone.ts';
import { makeDirty } from './snapshot.ts';

const DIRTY_MIB = 50;
/** Paused to; `encrypted`: to disk. */
const PLACES = ['memory', 'disk', 'encrypted'] as const;

export const pauseBenchmark: Benchmark = {
  names: ['pause.time', 'resume.time'].flatMap((figure) => PLACES.map((to) => `${figure}/${to}`)),
  summary: `pause and resume of a sandbox with ${DIRTY_MIB} MiB of its own, in place and to disk, plain and encrypted`,
  async measure(context) {
    const { runtime, signal } = context;
    await using opened = await openBenchControl(context);
    const { control } = opened;
    const attempts = { memory: new Attempts(signal), disk: new Attempts(signal), encrypted: new Attempts(signal) };
    const { id } = await control.create({}, signal);
    await makeDirty(control, id, DIRTY_MIB, signal);
    await using sealed = await openSealed(context);
    const { memory, disk, encrypted, boot } = await compare(context, 'pause', {
      memory: () => attempts.memory.run(() => pauseOnce(context, control, { id, to: 'memory' })),
      disk: () => attempts.disk.run(() => pauseOnce(context, control, { id, to: 'disk' })),
      encrypted:
        sealed &&
        (() => attempts.encrypted.run(() => pauseOnce(context, sealed.control, { id: sealed.id, to: 'disk' }))),
      boot: () => startOnce(context, 'boot'),
    });
    const row = rowsOf('ms', runtime.driver.accelerator);
    const noBaseline = 'no baseline: the processors stop, and nothing is written';
    const inMemory = ['pause.time/memory', memory('pause')] as const;
    const toDisk = ['pause.time/disk', disk('pause')] as const;
    const fromDisk = ['resume.time/disk', disk('resume')] as const;
    const booted = ['boot.hello', boot('ready')] as const;
    return [
      row('pause.time/memory', memory('pause'), null, attempts.memory.failures(noBaseline)),
      row(
        'pause.time/disk',
        disk('pause'),
        inMemory,
        attempts.disk.failures('until it is safe and the memory is freed'),
      ),
      row('resume.time/memory', memory('resume'), booted, attempts.memory.failures()),
      row('resume.time/disk', disk('resume'), booted, attempts.disk.failures()),
      row('pause.time/encrypted', encrypted('pause'), toDisk, attempts.encrypted.failures()),
      row('resume.time/encrypted', encrypted('resume'), fromDisk, attempts.encrypted.failures()),
    ];
  },
};

/** A sandbox whose pauses are encrypted; `null` if this VMM can't do that. */
async function openSealed(context: BenchContext) {
  const { runtime, signal } = context;
  if (runtime.driver.name === 'firecracker') return null;
  const { control, ...opened } = await openBenchControl(context, true);
  const { id } = await control.create({}, signal);
  await makeDirty(control, id, DIRTY_MIB, signal);
  return { ...opened, control, id };
}

/** Fails unless the sandbox works afterwards. */
async function pauseOnce(
  { signal }: BenchContext,
  control: LocalControlPlane,
  { id, to }: { readonly id: string; readonly to: 'memory' | 'disk' },
) {
  const began = performance.now();
  await control.pause(id, to);
  const paused = performance.now();
  await control.resume(id, { signal });
  const resumed = performance.now();
  await printOneMs(await control.guest(id), signal);
  return { pause: paused - began, resume: resumed - paused };
}
