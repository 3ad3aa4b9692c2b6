/** Connects a command to the daemon, and waits for one that is starting. */
import { type Clock, sleep, systemClock } from '../../base/clock.ts';
import { errorCode } from '../../base/errors.ts';
import { ClientError } from '../../client/errors.ts';
import { resolveHome } from '../../home.ts';
import { type Daemon, openDaemon } from '../../library/daemon.ts';
import type { Cli } from '../cli.ts';

/** Enough for a start, but not for the set-up of a new machine. */
const STARTING_MS_MAX = 30_000;
const POLL_MS = 100;

/**
 * @throws ClientError `daemon_unreachable` at once if no daemon is starting, otherwise at the time limit
 */
export async function reachDaemon(cli: Cli, clock: Clock = systemClock): Promise<Daemon> {
  const startedAtMs = clock.now();
  for (let isReported = false; ; isReported = true) {
    try {
      return await openDaemon(cli.config);
    } catch (error) {
      if (errorCode(error) !== 'daemon_unreachable' || cli.config.daemonUrl !== null) throw error;
      const { isDaemonLocked } = await import('../../runtime/daemon-lock.ts');
      if (!isDaemonLocked(resolveHome(cli.config.home))) throw error;
      if (clock.now() - startedAtMs >= STARTING_MS_MAX) throw stillNotReady(error);
    }
    if (!isReported && !cli.json) {
      cli.stderr.write('waiting for the daemon of this home to start or stop\n');
    }
    await sleep(POLL_MS, cli.cancelled);
  }
}

function stillNotReady(cause: unknown): ClientError {
  return new ClientError('daemon_unreachable', 'the daemon of this home is not ready', {
    cause,
    remedy: 'retry when `neurovisor serve` reports that it is ready',
  });
}
