/**
 * One daemon per home, found out before anything else of `serve` is loaded: clients wait for whoever has the
 * lock, and are told at once that there is no daemon as long as nobody has it.
 */
import { sleep } from '../../base/clock.ts';
import { resolveHome } from '../../home.ts';
import { openDaemonIfRunning } from '../../library/daemon.ts';
import { tryLockDaemon } from '../../runtime/daemon-lock.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';

/** How long one that ends its sandboxes, or one that starts, is waited for. */
const OTHER_MS_MAX = 30_000;
const POLL_MS = 100;

/**
 * @returns how to let another one be it
 * @throws UsageError when there is one, and stays
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
    // At the first try it may be a client that looks whether somebody has the lock.
    if (waitedMs === POLL_MS && !cli.json) {
      cli.stderr.write('waiting for another daemon of this home to start or stop\n');
    }
    await sleep(POLL_MS, cli.cancelled);
  }
}

/** One that runs says so at its socket. */
async function refuseSecond(cli: Cli): Promise<void> {
  const running = await openDaemonIfRunning(cli.config);
  if (running === null) return;
  await running[Symbol.asyncDispose]();
  throw new UsageError(
    'a daemon is already running for this home',
    'use it (neurovisor host), stop it, or set NEUROVISOR_HOME to another directory',
  );
}
