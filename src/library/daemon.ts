/** Finds the daemon: at this home's socket, or at NEUROVISOR_URL. */
import { existsSync } from 'node:fs';
import { systemClock } from '../base/clock.ts';
import type { RemoteControlPlane } from '../client/client.ts';
import type { Config } from '../config.ts';
import { checkRunDir, daemonSocket, resolveHome } from '../home.ts';
import { parseTraceparent, type SpanContext } from '../trace/trace.ts';

/** The daemon's control plane; dispose of it to close its connections. */
export type Daemon = RemoteControlPlane;

/** @throws ClientError `daemon_unreachable`, `unauthorized`; HomeError `run_dir_unsafe` */
export async function openDaemon(config: Config): Promise<Daemon> {
  // Loaded only here: sandboxes of this process need no client.
  const { connectDaemon } = await import('../client/client.ts');
  const { daemonUrl: url, daemonKey: apiKey } = config;
  const trace = traceOf(config);
  if (url === null) return await connectDaemon({ socketPath: socketPath(config), trace });
  return await connectDaemon({ url, trace, ...(apiKey === null ? {} : { apiKey }) });
}

/**
 * The daemon to use by default; null: none runs, or this process has settings (model server, accelerator, VMM, GPU, jail)
 * that the daemon may not have been started with.
 * @throws ClientError: the daemon at NEUROVISOR_URL does not answer
 */
export async function openUsualDaemon(config: Config): Promise<Daemon | null> {
  if (config.daemonUrl !== null) return await openDaemon(config);
  const { upstream, accelerator, vmm, gpu, jail } = config;
  if ([upstream, accelerator, vmm, gpu, jail].some((setting) => setting !== 'auto')) return null;
  return await openDaemonIfRunning(config);
}

/** The daemon at this home's socket; null: none answers. */
export async function openDaemonIfRunning(config: Config): Promise<Daemon | null> {
  if (!(await isHomeDaemonRunning(config))) return null;
  const { RemoteControlPlane } = await import('../client/client.ts');
  const address = { socketPath: socketPath(config), trace: traceOf(config) };
  return new RemoteControlPlane(address, systemClock);
}

/** Whether a daemon answers at this home's socket. */
export async function isHomeDaemonRunning(config: Config): Promise<boolean> {
  const path = socketPath(config);
  if (!existsSync(path)) return false;
  const { isDaemonRunning } = await import('../client/client.ts');
  return await isDaemonRunning(path);
}

/** The trace of this process, from its environment. */
const traceOf = ({ traceparent }: Config): SpanContext | undefined =>
  parseTraceparent(traceparent) ?? undefined;

/** @throws HomeError `run_dir_unsafe`: another user could answer there */
function socketPath(config: Config): string {
  const home = resolveHome(config.home);
  checkRunDir(home.runDir);
  return daemonSocket(home);
}
