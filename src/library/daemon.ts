/** How the daemon is found: at this home's socket, or where NEUROVISOR_URL says. */
import { existsSync } from 'node:fs';
import { systemClock } from '../base/clock.ts';
import type { RemoteControlPlane } from '../client/client.ts';
import type { Config } from '../config.ts';
import { daemonSocket, resolveHome } from '../home.ts';
import { parseTraceparent, type SpanContext } from '../trace/trace.ts';

/** The daemon's control plane; dispose of it to let its connections go. */
export type Daemon = RemoteControlPlane;

/** @throws ClientError `daemon_unreachable`, `unauthorized` */
export async function openDaemon(config: Config): Promise<Daemon> {
  // Loaded only here: who starts sandboxes of his own needs no client.
  const { connectDaemon } = await import('../client/client.ts');
  const { daemonUrl: url, daemonKey: apiKey } = config;
  const trace = traceOf(config);
  if (url === null) return await connectDaemon({ socketPath: socketPath(config), trace });
  return await connectDaemon({ url, trace, ...(apiKey === null ? {} : { apiKey }) });
}

/**
 * The daemon that serves whoever does not ask for one in particular; null: there is none, or what is set
 * for this process (model server, accelerator, jail) may not be what that daemon was started with.
 * @throws ClientError when NEUROVISOR_URL names one that does not answer
 */
export async function openUsualDaemon(config: Config): Promise<Daemon | null> {
  if (config.daemonUrl !== null) return await openDaemon(config);
  const { upstream, accelerator, vmm, gpu, jail } = config;
  if ([upstream, accelerator, vmm, gpu, jail].some((setting) => setting !== 'auto')) return null;
  return await openDaemonIfRunning(config);
}

/** Null: none answers at this home's socket. */
export async function openDaemonIfRunning(config: Config): Promise<Daemon | null> {
  const path = socketPath(config);
  if (!existsSync(path)) return null;
  const { isDaemonRunning, RemoteControlPlane } = await import('../client/client.ts');
  if (!(await isDaemonRunning(path))) return null;
  return new RemoteControlPlane({ socketPath: path, trace: traceOf(config) }, systemClock);
}

/** What starts a process within a trace says so in its environment, as it does to programs in a guest. */
const traceOf = ({ traceparent }: Config): SpanContext | undefined =>
  parseTraceparent(traceparent) ?? undefined;

const socketPath = ({ home }: Config): string => daemonSocket(resolveHome(home));
