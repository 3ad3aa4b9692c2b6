/** Opens a runtime without sandboxes, with progress on the screen, which the caller closes. */
import { type OwnRuntimeOptions, openRuntime as open } from '../../host/daemon/plane.ts';
import type { Runtime } from '../../host/runtime/runtime.ts';
import type { Cli } from '../cli.ts';

export const openRuntime = (cli: Cli, options: Partial<OwnRuntimeOptions> = {}): Promise<Runtime> =>
  open({ config: cli.config, progress: cli.progress.report, log: cli.log, signal: cli.cancelled, ...options });
