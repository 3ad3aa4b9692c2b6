/** Gives a command the administration of a home: the daemon's, or its own while no daemon runs. Starts no daemon. */
import { ClientError } from '../../api/client/errors.ts';
import type { Administration } from '../../api/tenants/administration.ts';
import { TenantError } from '../../api/tenants/errors.ts';
import { sleep, systemClock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import { type Home, resolveHome } from '../../base/home.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { type Daemon, openDaemon, openDaemonIfRunning } from '../library/daemon.ts';

/** Wait for a daemon or another command that has the home: both open and close it in seconds. */
const OTHER_MS_MAX = 30_000;
const POLL_MS = 100;

/** @param daemon `null` if the command has the home */
type Work<T> = (home: Administration, daemon: Daemon | null) => Promise<T>;

/**
 * Calls `work` with the administration of NEUROVISOR_URL's daemon, of this home's daemon, or, under the daemon's lock,
 * of the files of this home.
 * @throws ClientError `daemon_unreachable` if the lock is taken and no daemon answers; UsageError for a wrong argument
 */
export async function administer<T>(cli: Cli, work: Work<T>): Promise<T> {
  const home = resolveHome(cli.config.home);
  const { tryLockDaemon } = await import('../../host/runtime/daemon-lock.ts');
  for (let waitedMs = 0; ; waitedMs += POLL_MS) {
    const daemon = await reach(cli);
    if (daemon !== null) return await ask(daemon, work);
    const release = tryLockDaemon(home);
    if (release !== null) {
      try {
        return await here(home, work);
      } finally {
        release();
      }
    }
    if (waitedMs >= OTHER_MS_MAX) {
      throw new ClientError('daemon_unreachable', 'another process has this home, but no daemon answers', {
        remedy: 'retry when `neurovisor serve` reports that it is ready, or end that process',
      });
    }
    if (waitedMs === POLL_MS && !cli.json) {
      cli.stderr.write('waiting for the daemon of this home to start or stop\n');
    }
    await sleep(POLL_MS, cli.cancelled);
  }
}

/** As `administer`, for work that only reads logs. They are only appended to, so it needs no lock. */
export async function readAuditLogs<T>(cli: Cli, work: Work<T>): Promise<T> {
  const daemon = await reach(cli);
  if (daemon !== null) return await ask(daemon, work);
  return await here(resolveHome(cli.config.home), work);
}

async function reach({ config }: Cli): Promise<Daemon | null> {
  return config.daemonUrl === null ? await openDaemonIfRunning(config) : await openDaemon(config);
}

async function ask<T>(daemon: Daemon, work: Work<T>): Promise<T> {
  await using there = daemon;
  return await work(await there.administration(), there);
}

async function here<T>(home: Home, work: Work<T>): Promise<T> {
  try {
    return await work(await open(home), null);
  } catch (error) {
    throw usageOf(error);
  }
}

const USAGE_CODES: ReadonlySet<string> = new Set(['invalid', 'not_found']);

/** A UsageError for what the command line has wrong, otherwise the error itself. */
export function usageOf(error: unknown): unknown {
  const isUsage = error instanceof TenantError && USAGE_CODES.has(error.code);
  return isUsage ? new UsageError(describeError(error), error.remedy) : error;
}

/** Loaded only here: a command that asks a daemon needs none of it. */
async function open({ dir }: Home): Promise<Administration> {
  const [{ HomeAdministration }, { KeyStore }, { HostStore, TenantStore }] = await Promise.all([
    import('../../api/tenants/administration.ts'),
    import('../../api/tenants/keys.ts'),
    import('../../api/tenants/settings.ts'),
  ]);
  return new HomeAdministration(dir, {
    keys: () => new KeyStore(dir, systemClock),
    tenants: () => new TenantStore(dir),
    host: () => new HostStore(dir),
  });
}
