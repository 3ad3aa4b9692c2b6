/** Opens the runtime, with progress on the screen. */
import { buildReadyMade } from '../../host/builds/environment-build.ts';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.ts';
import type { Cli } from '../cli.ts';

export async function openRuntime(
  cli: Cli,
  options: Partial<
    Pick<
      RuntimeOptions,
      | 'config'
      | 'modelPath'
      | 'onUsage'
      | 'observes'
      | 'withoutModel'
      | 'modelLater'
      | 'sharedBudgets'
      | 'modelCacheBytes'
      | 'requestLog'
      | 'progress'
      | 'signal'
    >
  > & {
    /** The caller closes the progress itself, for example after building a template. */
    readonly keepsProgress?: boolean;
  } = {},
): Promise<Runtime> {
  const { keepsProgress = false, ...more } = options;
  const runtime = await Runtime.open({
    config: cli.config,
    progress: cli.progress.report,
    log: cli.log,
    signal: cli.cancelled,
    buildReadyMade,
    ...more,
  });
  if (!keepsProgress) cli.progress.close();
  return runtime;
}
