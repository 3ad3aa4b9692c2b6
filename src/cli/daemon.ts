/** How commands find the daemon: at this home's socket, or where NEUROVISOR_URL says. */
import { existsSync } from 'node:fs';
import { systemClock } from '../base/clock.ts';
import { daemonSocket, resolveHome } from '../runtime/home.ts';
import type { ControlPlane } from '../sandbox/control.ts';
import type { Cli } from './cli.ts';

/** The daemon's control plane; dispose of it to let its connections go. */
export type Daemon = ControlPlane & AsyncDisposable;

/** @throws ClientError `daemon_unreachable` */
export async function openDaemon(cli: Pick<Cli, 'config'>): Promise<Daemon> {
  // Loaded only here: most commands need no daemon.
  const { connectDaemon } = await import('../client/client.ts');
  const { daemonUrl: url, daemonKey: apiKey } = cli.config;
  if (url === null) return await connectDaemon({ socketPath: socketPath(cli) });
  return await connectDaemon({ url, ...(apiKey === null ? {} : { apiKey }) });
}

/** Null: none answers at this home's socket. */
export async function openDaemonIfRunning(cli: Pick<Cli, 'config'>): Promise<Daemon | null> {
  const path = socketPath(cli);
  if (!existsSync(path)) return null;
  const { isDaemonRunning, RemoteControlPlane } = await import('../client/client.ts');
  if (!(await isDaemonRunning(path))) return null;
  return new RemoteControlPlane({ socketPath: path }, systemClock);
}

const socketPath = ({ config }: Pick<Cli, 'config'>): string =>
  daemonSocket(resolveHome(config.home));
