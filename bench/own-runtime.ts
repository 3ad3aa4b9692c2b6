import { silentProgress } from '../src/base/progress.ts';
import { Runtime, type RuntimeOptions } from '../src/host/runtime/runtime.ts';
import type { BenchContext } from './benchmark.ts';

/**
 * Opens a benchmark's own runtime, without a model, for example for boots with another kernel, launch or package index.
 */
export function openOwnRuntime(
  { config, signal, log }: Pick<BenchContext, 'config' | 'signal' | 'log'>,
  options: Pick<RuntimeOptions, 'kernelPath' | 'aroundLaunch' | 'packageIndexes'> = {},
  more: Partial<RuntimeOptions['config']> = {},
): Promise<Runtime> {
  return Runtime.open({
    config: { ...config, upstream: 'engine', ...more },
    progress: silentProgress,
    withoutModel: true,
    signal,
    log,
    ...options,
  });
}
