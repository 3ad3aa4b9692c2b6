/** A `run` with a sandbox of the daemon, as a trace of this command: the daemon's spans, and its script, are parts of it. */

import type { Config } from '../../../config.ts';
import { formatTraceparent } from '../../../trace/trace.ts';
import type { Cli } from '../../cli.ts';

/** @param work called with a configuration that says the trace; only where this command has a collector */
export async function inTrace<T>(cli: Cli, work: (config: Config) => Promise<T>): Promise<T> {
  const { config, log } = cli;
  // Loaded only here: it takes as long as all else that such a command loads.
  const { openTracing } = await import('../../../runtime/tracing.ts');
  const tracing = openTracing(config, log);
  try {
    return await tracing.tracer.span('run', {}, ({ context }) =>
      work(context === null ? config : { ...config, traceparent: formatTraceparent(context) }),
    );
  } finally {
    await tracing.close();
  }
}
