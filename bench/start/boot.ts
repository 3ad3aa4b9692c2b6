/** The time from nothing until init runs, and until the agent is ready. */
import type { Runtime } from '../../src/host/runtime/runtime.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { openOwnRuntime } from '../own-runtime.ts';
import { REFERENCE_CHOICE, REFERENCE_NAME, referenceKernel } from './reference-kernel.ts';

export const bootBenchmark: Benchmark = {
  names: ['boot.init', 'boot.hello'],
  summary: `start of a sandbox until init runs, and until its agent is ready; ${REFERENCE_CHOICE}`,
  async measure(context) {
    const { runtime, config } = context;
    const kernelPath = referenceKernel(config.home);
    if (kernelPath === null) {
      const note = `not compared with ${REFERENCE_NAME}: see tools/reference-kernel.ts`;
      return await measureBoots(context, null, note);
    }
    const vmm = runtime.driver.name === 'firecracker' ? 'firecracker' : 'qemu';
    const reference = await openOwnRuntime(context, { kernelPath }, { vmm });
    try {
      return await measureBoots(context, reference);
    } finally {
      await reference.close();
    }
  },
};

/** @param reference boots the reference kernel */
async function measureBoots(
  { runtime, rounds, signal, say }: BenchContext,
  reference: Runtime | null,
  note?: string,
): Promise<Measurement[]> {
  const ours: Boot[] = [];
  const others: Boot[] = [];
  // The first boots read the image into the page cache; they are not counted.
  for (let round = 0; round <= rounds; round += 1) {
    say(`boot ${round} of ${rounds}`);
    const [own, other] = [await boot(runtime, signal), reference === null ? null : await boot(reference, signal)];
    if (round === 0) continue;
    ours.push(own);
    if (other !== null) others.push(other);
  }
  const { accelerator } = runtime.driver;
  return (['init', 'hello'] as const).map((until) => ({
    name: `boot.${until}`,
    unit: 'ms',
    accelerator,
    samples: ours.map((one) => one[until]),
    baseline: reference === null ? null : { name: REFERENCE_NAME, samples: others.map((one) => one[until]) },
    note,
  }));
}

interface Boot {
  readonly init: number;
  readonly hello: number;
}

async function boot(runtime: Runtime, signal: AbortSignal): Promise<Boot> {
  const sandbox = await runtime.startVm({}, signal);
  const { timings } = sandbox;
  await sandbox.stop();
  if (timings === undefined) throw new Error('a boot without timings');
  const { prepareMs, vmmMs, kernelMs, totalMs } = timings;
  return { init: prepareMs + vmmMs + kernelMs, hello: totalMs };
}
