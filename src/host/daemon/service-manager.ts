/**
 * The daemon in a systemd unit: it reports its state (sd_notify(3)) for `Type=notify` and `WatchdogSec=`, and takes the
 * socket of a socket unit. The unit's main process is the launcher, so the unit has `NotifyAccess=all`.
 */
import { sendDatagram, UNIX_PATH_BYTES_MAX } from '../../sys/socket.ts';

type Environment = Readonly<Record<string, string | undefined>>;

const FIRST_FD = 3;

/** Seconds of a watchdog: from one to a day. */
const WATCHDOG_US = { min: 1e6, max: 86_400e6 };

/** Sends nothing outside of such a unit. systemd that is busy or gone changes nothing for the daemon. */
export function notifyManager(env: Environment, ...lines: readonly string[]): void {
  const path = env['NOTIFY_SOCKET'] ?? '';
  const isPath = /^[/@]./.test(path) && Buffer.byteLength(path) <= UNIX_PATH_BYTES_MAX;
  if (isPath) sendDatagram(path, Buffer.from(lines.join('\n')));
}

/** MONOTONIC_USEC ties the message to this reload. */
export function notifyReload(env: Environment): void {
  notifyManager(env, 'RELOADING=1', `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`);
}

/**
 * The listening socket that a socket unit passes (sd_listen_fds(3)), to this process or by its launcher, which keeps it
 * open while one daemon follows another. Null: none.
 */
export function activatedSocket(env: Environment): number | null {
  const { LISTEN_PID: pid, LISTEN_FDS: count, NEUROVISOR_LAUNCHER: launcher } = env;
  const isMeant = pid === `${process.pid}` || (pid === `${process.ppid}` && pid === launcher);
  return isMeant && count === '1' ? FIRST_FD : null;
}

/**
 * Tells systemd from now on that this process works: at once, and twice per `WATCHDOG_USEC` while the event loop turns.
 * @returns sets what must be true, too, as soon as it can be
 */
export function beginWatchdog(env: Environment): (isHealthy: () => Promise<boolean>) => void {
  let isHealthy = (): Promise<boolean> => Promise.resolve(true);
  const us = Number(env['WATCHDOG_USEC'] ?? '');
  const isMeant = ['', `${process.pid}`, `${process.ppid}`].includes(env['WATCHDOG_PID'] ?? '');
  if (isMeant && us >= WATCHDOG_US.min && us <= WATCHDOG_US.max) {
    const beat = (): void => {
      isHealthy().then(
        (is) => is && notifyManager(env, 'WATCHDOG=1'),
        () => undefined,
      );
    };
    beat();
    setInterval(beat, us / 2000).unref();
  }
  return (check) => {
    isHealthy = check;
  };
}
