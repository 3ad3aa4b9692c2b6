/** Connects a command to the daemon, and tells the user when it waits for one that is starting. */

import type { Cli } from '../cli.ts';
import { type Daemon, openDaemonOnceReady } from '../library/daemon.ts';

/** @throws ClientError `daemon_unreachable` at once if no daemon is starting, otherwise at the time limit */
export async function reachDaemon(cli: Cli, config = cli.config): Promise<Daemon> {
  return await openDaemonOnceReady(config, { signal: cli.cancelled, onWait: onWait(cli), onLoss: onLoss(cli) });
}

export const onWait = (cli: Cli) => (): void => {
  if (!cli.json) cli.stderr.write('waiting for the daemon of this home to start or stop\n');
};

const onLoss = (cli: Cli) => (): void => {
  if (!cli.json) cli.stderr.write('neurovisor: the daemon ended; waiting for the next one\n');
};
