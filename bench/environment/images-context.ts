/** Images with the VMs of the benchmarks' runtime, and without progress. */
import { silentProgress } from '../../src/base/progress.ts';
import type { ImagesContext } from '../../src/host/runtime/images.ts';
import type { BenchContext } from '../benchmark.ts';

export function imagesContext({ runtime, config, log, signal }: BenchContext): ImagesContext {
  return {
    home: runtime.home,
    progress: silentProgress,
    signal,
    log,
    quotaBytes: config.imageQuotaBytes,
    runtime: async () => runtime,
  };
}
