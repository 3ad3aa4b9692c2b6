/** Another kernel to compare the guest's with: Firecracker's CI configuration, built by `node tools/reference-kernel.ts`. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { silentProgress } from '../../base/progress.ts';
import { resolveHome } from '../../home.ts';
import { Runtime, type RuntimeOptions } from '../../runtime/runtime.ts';
import type { BenchContext } from '../benchmark.ts';

export const REFERENCE_NAME = 'the kernel of Firecracker’s CI';
/** Below the cache. */
export const REFERENCE_DIR = 'reference-kernel';
export const REFERENCE_FILE = 'vmlinux';

/** Path of the reference kernel; null: it has not been built. */
export function referenceKernel(home: string): string | null {
  const path = join(resolveHome(home).cacheDir, REFERENCE_DIR, REFERENCE_FILE);
  return existsSync(path) ? path : null;
}

/** A runtime of its own for boots with another kernel or launch. */
export function openBootRuntime(
  { config, signal, log }: Pick<BenchContext, 'config' | 'signal' | 'log'>,
  options: Pick<RuntimeOptions, 'kernelPath' | 'aroundLaunch'>,
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
