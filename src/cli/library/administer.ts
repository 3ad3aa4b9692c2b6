/** The administration of a home: a daemon's, or that of this process while no daemon runs. Starts no daemon. */
import type { Administration } from '../../api/tenants/administration.ts';
import { sleep, systemClock } from '../../base/clock.ts';
import type { Config } from '../../base/config.ts';
import { type Home, resolveHome } from '../../base/home.ts';
import { type Daemon, openDaemon, openDaemonIfRunning, openDaemonOnceReady } from './daemon.ts';

/** Wait for a daemon or another process that has the home: both open and close it in seconds. */
const OTHER_MS_MAX = 30_000;
const POLL_MS = 100;

export interface AdministerOptions {
  /** Its `daemonUrl` names the daemon; null: the one of its home, or none. */
  readonly config: Config;
  /** True: fails without a daemon. Default false. */
  readonly needsDaemon?: boolean;
  readonly signal: AbortSignal;
  /** Called once if it has to wait. */
  readonly onWait?: () => void;
}

/** @param daemon `null` if this process has the home */
export type AdministrationWork<T> = (home: Administration, daemon: Daemon | null) => Promise<T>;

/**
 * Calls `work` with the administration of the daemon or, under the daemon's lock, of the files of the home.
 * @throws ClientError `daemon_unreachable` if the lock is taken and no daemon answers; TenantError from the files
 */
export async function administer<T>(options: AdministerOptions, work: AdministrationWork<T>): Promise<T> {
  const home = resolveHome(options.config.home);
  const { tryLockDaemon } = await import('../../host/runtime/daemon-lock.ts');
  for (let waitedMs = 0; ; waitedMs += POLL_MS) {
    await using daemon = await reach(options);
    if (daemon !== null) return await work(await daemon.administration(), daemon);
    const release = tryLockDaemon(home);
    if (release !== null) {
      try {
        return await work(await open(home), null);
      } finally {
        release();
      }
    }
    if (waitedMs >= OTHER_MS_MAX) throw await notReady();
    if (waitedMs === POLL_MS) options.onWait?.();
    await sleep(POLL_MS, options.signal);
  }
}

export interface OpenedAuditLogs extends AsyncDisposable {
  /** Only for reading logs. They are only appended to, so that needs no lock. */
  readonly home: Administration;
}

/** @throws ClientError */
export async function openAuditLogs(options: AdministerOptions): Promise<OpenedAuditLogs> {
  const daemon = await reach(options);
  if (daemon === null) {
    return { home: await open(resolveHome(options.config.home)), [Symbol.asyncDispose]: async () => undefined };
  }
  return { home: await daemon.administration(), [Symbol.asyncDispose]: () => daemon[Symbol.asyncDispose]() };
}

async function reach({ config, needsDaemon = false, signal }: AdministerOptions): Promise<Daemon | null> {
  if (needsDaemon) return await openDaemonOnceReady(config, { signal });
  return config.daemonUrl === null ? await openDaemonIfRunning(config) : await openDaemon(config);
}

async function notReady(): Promise<Error> {
  const { ClientError } = await import('../../api/client/errors.ts');
  return new ClientError('daemon_unreachable', 'another process has this home, but no daemon answers', {
    remedy: 'retry when `neurovisor serve` reports that it is ready, or end that process',
  });
}

/** Loaded only here: with a daemon, none of it is needed. */
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
