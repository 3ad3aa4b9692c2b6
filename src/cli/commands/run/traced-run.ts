/** Runs a `run` with the daemon as one trace of this command, which includes the spans of the daemon and the script. */

import type { Config } from '../../../base/config.ts';
import { formatTraceparent } from '../../../base/trace/trace.ts';
import type { Cli } from '../../cli.ts';

/** @param work called with a configuration that carries the trace */
export async function inTrace<T>(cli: Cli, work: (config: Config) => Promise<T>): Promise<T> {
  const { config, log } = cli;
  // Loaded only here: it takes as long as everything else that this command loads.
  const { openTracing } = await import('../../../host/runtime/tracing.ts');
  const tracing = openTracing(config, log);
  try {
    return await tracing.tracer.span('run', {}, ({ context }) =>
      work(context === null ? config : { ...config, traceparent: formatTraceparent(context) }),
    );
  } finally {
    await tracing.close();
  }
}
