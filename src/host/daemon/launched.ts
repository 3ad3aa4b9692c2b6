/** A daemon and its launcher (`./neurovisor serve`), which starts it again if a signal has ended it. */
import { constants } from 'node:os';
import { inspect } from 'node:util';
import { signalAtParentsEnd } from '../../sys/core-dump.ts';
import { keeperOf } from '../runtime/kept-vms.ts';
import type { DaemonOptions } from './daemon.ts';
import { notifyReload } from './service-manager.ts';

/**
 * What the launcher says that started this process; from now on they end together. Empty: there is none.
 * At SIGHUP this process leaves its VMs to the daemon that its launcher starts next, as if it were killed, also amid its
 * own start.
 */
export async function launchedBy(env: NodeJS.ProcessEnv): Promise<Pick<DaemonOptions, 'keeper' | 'lostAtMs'>> {
  const keeper = await keeperOf(env);
  if (keeper === null) return {};
  signalAtParentsEnd(constants.signals.SIGTERM);
  // It may have ended a moment before.
  if (process.ppid !== keeper.pid) process.kill(process.pid, 'SIGTERM');
  process.prependListener('SIGHUP', handOver);
  // Only a signal tells the launcher to start it again.
  process.on('uncaughtException', (error) => {
    process.stderr.write(`${inspect(error)}\n`);
    process.kill(process.pid, 'SIGABRT');
  });
  const lostAtMs = Number(env['NEUROVISOR_LOST_AT_MS'] ?? '');
  return { keeper, lostAtMs: lostAtMs > 0 ? lostAtMs : null };
}

/** For a daemon whose VMs end with it: SIGHUP stops it, as it stops other programs. */
export function stopAtHangUp(): void {
  process.off('SIGHUP', handOver);
}

const handOver = (): void => {
  notifyReload(process.env);
  process.kill(process.pid, 'SIGKILL');
};
