import type { Cli } from '../cli.ts';
import { onWait } from '../daemon/reach.ts';
import { type OpenedContents, openContents as open } from '../library/contents.ts';

/** What a home keeps beside sandboxes. @throws ClientError: the daemon at NEUROVISOR_URL does not answer */
export async function openContents(cli: Cli): Promise<OpenedContents> {
  const { config, log, cancelled: signal, progress } = cli;
  return await open({ config, log, signal, progress: progress.report, onWait: onWait(cli) });
}
