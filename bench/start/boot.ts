/** The time from nothing until init runs, and until the agent is ready. */
import type { Runtime } from '../../src/host/runtime/runtime.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { compare, rowsOf } from '../compare.ts';
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
async function measureBoots(context: BenchContext, reference: Runtime | null, note?: string): Promise<Measurement[]> {
  const { runtime, signal } = context;
  // The first boots read the image into the page cache.
  const { ours, others } = await compare(context, 'boot', {
    ours: () => boot(runtime, signal),
    others: reference === null ? null : () => boot(reference, signal),
  });
  const row = rowsOf('ms', runtime.driver.accelerator);
  return (['init', 'hello'] as const).map((until) =>
    row(`boot.${until}`, ours(until), reference === null ? null : [REFERENCE_NAME, others(until)], { note }),
  );
}

async function boot(runtime: Runtime, signal: AbortSignal): Promise<{ init: number; hello: number }> {
  const sandbox = await runtime.startVm({}, signal);
  const { timings } = sandbox;
  await sandbox.stop();
  if (timings === undefined) throw new Error('a boot without timings');
  const { prepareMs, vmmMs, kernelMs, totalMs } = timings;
  return { init: prepareMs + vmmMs + kernelMs, hello: totalMs };
}
