/**
 * Takes the daemon lock of the home before the rest of `serve` is loaded: clients wait for the holder of the lock,
 * and fail at once while it is free.
 */
import { sleep } from '../../base/clock.ts';
import { resolveHome } from '../../base/home.ts';
import { tryLockDaemon } from '../../host/runtime/daemon-lock.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { openDaemonIfRunning } from '../library/daemon.ts';

/** Wait for another daemon that is starting or stopping. */
const OTHER_MS_MAX = 30_000;
const POLL_MS = 100;

/**
 * @returns the release of the lock
 * @throws UsageError if another daemon keeps running
 */
export async function becomeDaemon(cli: Cli): Promise<() => void> {
  const home = resolveHome(cli.config.home);
  for (let waitedMs = 0; ; waitedMs += POLL_MS) {
    await refuseSecond(cli);
    const release = tryLockDaemon(home);
    if (release !== null) return release;
    if (waitedMs >= OTHER_MS_MAX) {
      throw new UsageError(
        'another daemon of this home is still starting or stopping',
        'wait for it, or set NEUROVISOR_HOME to another directory',
      );
    }
    // At the first try, a client that only probes the lock may hold it.
    if (waitedMs === POLL_MS && !cli.json) {
      cli.stderr.write('waiting for another daemon of this home to start or stop\n');
    }
    await sleep(POLL_MS, cli.cancelled);
  }
}

/** @throws UsageError if a daemon answers at the socket */
async function refuseSecond(cli: Cli): Promise<void> {
  const running = await openDaemonIfRunning(cli.config);
  if (running === null) return;
  await running[Symbol.asyncDispose]();
  throw new UsageError(
    'a daemon is already running for this home',
    'use it (neurovisor host), stop it, or set NEUROVISOR_HOME to another directory',
  );
}
