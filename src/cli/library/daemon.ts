/** Finds the daemon: at this home's socket, at NEUROVISOR_URL, or of the context. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { DaemonAddress, RemoteControlPlane } from '../../api/client/client.ts';
import { type Clock, sleep, systemClock } from '../../base/clock.ts';
import { type Config, ConfigError } from '../../base/config.ts';
import { describeError, errorCode } from '../../base/errors.ts';
import { checkRunDir, daemonSocket, resolveHome } from '../../base/home.ts';
import { parseTraceparent, type SpanContext } from '../../base/trace/trace.ts';

/** Enough for a start, but not for the set-up of a new machine. */
const STARTING_MS_MAX = 30_000;
const POLL_MS = 100;

/** The daemon's control plane; dispose of it to close its connections. */
export type Daemon = RemoteControlPlane;

/** @throws ClientError `daemon_unreachable`, `unauthorized`, `certificate_invalid`; HomeError `run_dir_unsafe`; ConfigError */
export async function openDaemon(
  config: Config,
  loss: Pick<DaemonAddress, 'onLoss' | 'cancelled'> = {},
): Promise<Daemon> {
  // Loaded only here: sandboxes of this process need no client.
  const { connectDaemon } = await import('../../api/client/client.ts');
  const { daemonUrl: url, daemonKey: apiKey, daemonCaFile: caFile, daemonWaitMs: waitMs } = config;
  const common = { trace: traceOf(config), waitMs, ...loss };
  if (url === null) return await connectDaemon({ socketPath: socketPath(config), ...common });
  const isTls = url.startsWith('https:');
  const { daemonContext: context } = config;
  const ca = isTls && caFile !== null ? await authorities(caFile, context) : undefined;
  const address = { url, ca, ...common, ...(apiKey === null ? {} : { apiKey }) };
  if (context === null) return await connectDaemon(address);
  return await connectDaemon(address).catch(async (error: unknown) => {
    const { ClientError } = await import('../../api/client/errors.ts');
    if (!(error instanceof ClientError)) throw error;
    throw new ClientError(error.code, describeError(error), { remedy: contextRemedy(error.code, context, url) });
  });
}

/** The remedies of the client name environment variables, which do not decide here. */
function contextRemedy(code: string, context: string, url: string): string {
  if (code === 'unauthorized') return `log in with another key: neurovisor login ${url} --name ${context}`;
  const ca = code === 'certificate_invalid' ? 'log in with --ca FILE, ' : '';
  return `${ca}check the address (neurovisor context ls), or use this home: neurovisor context use local`;
}

/** @throws ConfigError */
async function authorities(path: string, context: string | null): Promise<string> {
  try {
    const pem = await readFile(path, 'utf8');
    const certificates = pem.match(/-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----/gs);
    if (certificates === null) throw new Error('it has no certificate in PEM');
    const { X509Certificate } = process.getBuiltinModule('node:crypto');
    for (const certificate of certificates) new X509Certificate(certificate);
    return pem;
  } catch (error) {
    throw new ConfigError(
      'config_invalid',
      `${context === null ? 'NEUROVISOR_CA' : `authority of context ${context}`}: ${path}: ${describeError(error)}`,
      { remedy: 'name a file with the certificates of the authority, in PEM' },
    );
  }
}

/**
 * Waits for a daemon of this home that is starting.
 * @param options.onWait called once if it has to wait
 * @param options.signal also ends what waits for the next daemon later, of which `onLoss` tells
 * @throws ClientError as `openDaemon`: at once if no daemon is starting, otherwise at the time limit
 */
export async function openDaemonOnceReady(
  config: Config,
  options: {
    readonly signal?: AbortSignal | undefined;
    readonly onWait?: () => void;
    readonly onLoss?: (() => void) | undefined;
  } = {},
  clock: Clock = systemClock,
): Promise<Daemon> {
  const { signal, onWait, onLoss } = options;
  const startedAtMs = clock.now();
  for (let isReported = false; ; isReported = true) {
    try {
      return await openDaemon(config, { onLoss, cancelled: signal });
    } catch (error) {
      if (errorCode(error) !== 'daemon_unreachable' || config.daemonUrl !== null) throw error;
      const { isDaemonLocked } = await import('../../host/runtime/daemon-lock.ts');
      if (!isDaemonLocked(resolveHome(config.home))) throw error;
      if (clock.now() - startedAtMs >= STARTING_MS_MAX) throw await stillNotReady(error);
    }
    if (!isReported) onWait?.();
    await sleep(POLL_MS, signal);
  }
}

async function stillNotReady(cause: unknown): Promise<Error> {
  const { ClientError } = await import('../../api/client/errors.ts');
  return new ClientError('daemon_unreachable', 'the daemon of this home is not ready', {
    cause,
    remedy: 'retry when `neurovisor serve` reports that it is ready',
  });
}

/**
 * The daemon to use by default; null: none runs, or this process has settings (cassette, model server, accelerator, VMM,
 * GPU, jail) that the daemon may not have been started with.
 * @throws ClientError: the daemon at NEUROVISOR_URL does not answer
 */
export async function openUsualDaemon(config: Config): Promise<Daemon | null> {
  // First: a program that is tested with a cassette must not reach a model.
  if (config.cassette !== null) return null;
  if (config.daemonUrl !== null) return await openDaemon(config);
  const { upstream, modelsFile, accelerator, vmm, gpu, jail } = config;
  if (modelsFile !== null) return null;
  if ([upstream, accelerator, vmm, gpu, jail].some((setting) => setting !== 'auto')) return null;
  return await openDaemonIfRunning(config, config.daemonWaitMs);
}

/** The daemon at this home's socket; null: none answers. */
export async function openDaemonIfRunning(config: Config, waitMs = 0): Promise<Daemon | null> {
  if (!(await isHomeDaemonRunning(config))) return null;
  const { remoteControlPlane } = await import('../../api/client/client.ts');
  const address = { socketPath: socketPath(config), trace: traceOf(config), waitMs };
  return remoteControlPlane(address, systemClock);
}

/** Whether a daemon answers at this home's socket. */
export async function isHomeDaemonRunning(config: Config): Promise<boolean> {
  const path = socketPath(config);
  if (!existsSync(path)) return false;
  const { isDaemonRunning } = await import('../../api/client/client.ts');
  return await isDaemonRunning(path);
}

/** The trace of this process, from its environment. */
const traceOf = ({ traceparent }: Config): SpanContext | undefined => parseTraceparent(traceparent) ?? undefined;

/** @throws HomeError `run_dir_unsafe`: another user could answer there */
function socketPath(config: Config): string {
  const home = resolveHome(config.home);
  checkRunDir(home.runDir);
  return daemonSocket(home);
}
