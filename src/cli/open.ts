/** Opens the runtime as every command does: with progress on the screen until it is open. */
import { Runtime, type RuntimeOptions } from '../runtime/runtime.ts';
import type { Cli } from './cli.ts';

export async function openRuntime(
  cli: Cli,
  options: Partial<Pick<RuntimeOptions, 'config' | 'modelPath' | 'onUsage'>> = {},
): Promise<Runtime> {
  const runtime = await Runtime.open({
    config: cli.config,
    progress: cli.progress.report,
    log: cli.log,
    signal: cli.cancelled,
    ...options,
  });
  cli.progress.close();
  return runtime;
}
