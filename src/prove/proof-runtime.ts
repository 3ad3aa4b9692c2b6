import { silentProgress } from '../base/progress.ts';
import { Runtime } from '../runtime/runtime.ts';
import type { JailContext } from './jail/vmm.ts';

/** Opens the runtime whose sandboxes a proof tries, without a model of its own. @param more configuration */
export function openProofRuntime(
  { config, log }: Pick<JailContext, 'config' | 'log'>,
  more: Partial<JailContext['config']> = {},
): Promise<Runtime> {
  return Runtime.open({
    config: { ...config, upstream: 'engine', ...more },
    progress: silentProgress,
    signal: new AbortController().signal,
    log,
    withoutModel: true,
  });
}
