/** Opens the runtime as every command does: with progress on the screen until it is open, or longer. */
import { Runtime, type RuntimeOptions } from '../../runtime/runtime.ts';
import type { Cli } from '../cli.ts';

export async function openRuntime(
  cli: Cli,
  options: Partial<
    Pick<RuntimeOptions, 'config' | 'modelPath' | 'onUsage' | 'observes' | 'withoutModel'>
  > & {
    /** The caller may still build a template, and closes the progress itself. */
    readonly keepsProgress?: boolean;
  } = {},
): Promise<Runtime> {
  const { keepsProgress = false, ...more } = options;
  const runtime = await Runtime.open({
    config: cli.config,
    progress: cli.progress.report,
    log: cli.log,
    signal: cli.cancelled,
    ...more,
  });
  if (!keepsProgress) cli.progress.close();
  return runtime;
}
