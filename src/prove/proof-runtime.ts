/** The runtime whose sandboxes a proof tries. */
import { silentProgress } from '../base/progress.ts';
import { Runtime } from '../runtime/runtime.ts';
import type { JailContext } from './jail/vmm.ts';

/** @param more of the configuration; without another upstream no model is asked, so none is loaded */
export function openProofRuntime(
  { config, log }: Pick<JailContext, 'config' | 'log'>,
  more: Partial<JailContext['config']> = {},
): Promise<Runtime> {
  return Runtime.open({
    config: { ...config, upstream: 'engine', ...more },
    progress: silentProgress,
    signal: new AbortController().signal,
    log,
  });
}
