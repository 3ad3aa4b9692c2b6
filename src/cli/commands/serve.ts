/** `neurovisor serve`: the daemon. Holds sandboxes and pools, and serves them at a socket. */
import { type Certificate, checkPort } from '../../api/rest/listener.ts';
import { systemClock } from '../../base/clock.ts';
import type { JailMode, MemorySharing, MemoryShort, OnStop } from '../../base/config.ts';
import { describeError } from '../../base/errors.ts';
import type { ContentMode } from '../../base/text/content-mode.ts';
import { plain } from '../../base/text/plain.ts';
import { type Daemon, type DaemonOptions, openDaemon, type PortOptions } from '../../host/daemon/daemon.ts';
import { launchedBy, stopAtHangUp } from '../../host/daemon/launched.ts';
import { activatedSocket, notifyManager } from '../../host/daemon/service-manager.ts';
import type { ControlPlane, PoolLimits } from '../../sandbox/contract/control.ts';
import type { Cli } from '../cli.ts';
import { followCertificate, readCertificate } from '../daemon/certificate.ts';
import { UsageError } from '../failure.ts';
import { type CassetteFlags, cassetteChoice } from '../flags/cassette-flags.ts';
import { defaultDomain, type ListenChoice, type ListenFlags, listenChoice, urlOf } from '../flags/listen-flags.ts';
import { parseSharedBudget } from '../flags/model-budget.ts';
import { modelChoice } from '../flags/model-choice.ts';
import { checkedFields } from '../flags/model-fields.ts';
import { isHomeDaemonRunning } from '../library/daemon.ts';

export interface ServeFlags extends ListenFlags, CassetteFlags {
  readonly pool: PoolLimits;
  readonly model?: string;
  readonly allowField?: readonly string[];
  readonly modelBudget?: readonly string[];
  readonly auditContent?: ContentMode;
  /** Bytes. */
  readonly modelCacheSize?: number;
  readonly memorySharing?: MemorySharing;
  readonly memoryShort?: MemoryShort;
  readonly onStop?: OnStop;
  readonly jail?: JailMode;
  readonly openMetrics?: boolean;
}

/** What `-o json` prints when the daemon is ready. */
export interface ServeReport {
  readonly socketPath: string;
  readonly url: string | null;
  /** Names of sandboxes end with it, for E2B's clients; null without a port. */
  readonly domain: string | null;
  /** A file that only its owner can read; null without a port. */
  readonly apiKeyPath: string | null;
  readonly pid: number;
  readonly vmm: string;
  /** Why this VMM was chosen. */
  readonly vmmReason: string;
  /** Confinement of the VMMs, and its gaps. */
  readonly jail: { readonly description: string; readonly gaps: readonly string[] };
  /** Whose sandboxes share memory, or why none does. */
  readonly memorySharing: string;
  readonly upstream: string;
  /** What the log keeps of requests to models and their answers. */
  readonly auditContent: ContentMode;
  readonly pool: PoolLimits;
}

export interface ServeParts {
  /** Releases the daemon lock of the home. */
  readonly release: () => void;
  /** Sets what the watchdog of systemd asks. */
  readonly watchHealth: (isHealthy: () => Promise<boolean>) => void;
}

/**
 * @returns after a signal, once everything has stopped except what is paused to disk
 */
export async function serve(cli: Cli, flags: ServeFlags, { release, watchHealth }: ServeParts): Promise<number> {
  cli.ignoreClosedOutput();
  try {
    const at = listenChoice(flags);
    const fd = activatedSocket(cli.env);
    if (fd !== null && at === null) {
      throw new UsageError('a socket unit passes a socket, and no port is set', 'set port (and host) to its address');
    }
    if (at !== null && fd === null) await checkPort(at.port, at.host);
    const certificate = at?.tls == null ? undefined : await readCertificate(at.tls);
    const options = { ...daemonOptions(cli, flags, at, { certificate, fd }), ...(await launchedBy(cli.env)) };
    await using daemon = await openDaemon(options, release);
    if (!daemon.keepsVms) stopAtHangUp();
    const stop = at === null ? undefined : renew(cli, at, certificate, daemon);
    if (at?.warning != null) cli.log.warn(at.warning);
    cli.progress.close();
    printReport(cli, reportOf(options, daemon, at), options.config.onStop);
    watchHealth(() => isHomeDaemonRunning(cli.config));
    notifyManager(cli.env, 'READY=1', `STATUS=${daemon.runtime.driver.description}`);
    await interrupted(cli);
    notifyManager(cli.env, 'STOPPING=1', 'STATUS=stopping');
    stop?.();
    if (options.config.onStop === 'pause') await pauseAll(cli, daemon);
    if (!cli.json) cli.stderr.write(`${await farewell(daemon.control)}\n`);
    return 0;
  } finally {
    cli.progress.close();
  }
}

function daemonOptions(
  cli: Cli,
  flags: ServeFlags,
  at: ListenChoice | null,
  door: Pick<PortOptions, 'certificate' | 'fd'>,
): DaemonOptions {
  const { config, log, cancelled: signal } = cli;
  const choice = modelChoice(flags.model, config);
  return {
    config: {
      ...config,
      allowFields: [...config.allowFields, ...checkedFields(flags.allowField ?? [])],
      cassette: cassetteChoice(flags, config),
      auditContent: flags.auditContent ?? config.auditContent,
      memorySharing: flags.memorySharing ?? config.memorySharing,
      memoryShort: flags.memoryShort ?? config.memoryShort,
      onStop: flags.onStop ?? config.onStop,
      jail: flags.jail ?? config.jail,
    },
    log,
    signal,
    progress: cli.progress.report,
    modelPath: choice.path,
    checkUpstream: choice.check,
    modelBudget: parseSharedBudget(flags.modelBudget ?? []),
    modelCacheBytes: flags.modelCacheSize,
    pool: flags.pool,
    openMetrics: flags.openMetrics === true,
    port: at === null ? null : { ...at, ...door, domainOf: (port) => at.domain ?? defaultDomain(at, port) },
  };
}

/** Follows the files of the certificate. @returns stops it */
function renew(
  { log }: Cli,
  { tls }: ListenChoice,
  certificate: Certificate | undefined,
  daemon: Daemon,
): (() => void) | undefined {
  if (tls === null || certificate === undefined) return undefined;
  const parts = { clock: systemClock, log };
  return followCertificate(tls, certificate, parts, (renewed) => daemon.setCertificate(renewed));
}

function reportOf(
  { config, pool }: DaemonOptions,
  { runtime, socketPath, bound, apiKeyPath }: Daemon,
  at: ListenChoice | null,
): ServeReport {
  const { driver, upstream } = runtime;
  const { description, gaps } = runtime.confinement;
  return {
    socketPath,
    url: at === null || bound === null ? null : urlOf(at, bound.port),
    domain: bound?.domain ?? null,
    apiKeyPath,
    pid: process.pid,
    vmm: driver.description,
    vmmReason: runtime.vmmReason,
    jail: { description, gaps: gaps.map(({ text }) => text) },
    memorySharing: driver.memorySharing ?? 'none',
    upstream: upstream.description,
    auditContent: config.auditContent,
    pool,
  };
}

function printReport(cli: Cli, report: ServeReport, onStop: OnStop): void {
  if (cli.json) {
    cli.printJson(report);
    return;
  }
  const { socketPath, url, domain, apiKeyPath, vmm, vmmReason, memorySharing, jail, upstream, pool, auditContent } =
    report;
  const lines = [
    `neurovisor is ready: ${vmm}, models from ${upstream}`,
    `  socket  ${socketPath}`,
    ...(url === null ? [] : [`  url     ${url}`]),
    ...(domain === null ? [] : [`  names   PORT-ID.${domain} of sandboxes`]),
    ...(apiKeyPath === null ? [] : [`  key     in ${apiKeyPath}`]),
    ...(auditContent === 'off' ? [] : [`  audit   keeps requests to models: ${auditContent}`]),
    `  pool    ${poolText(pool)}`,
    `  VMM     ${vmmReason}`,
    `  memory  ${memorySharing}`,
    `  jail    ${jail.description}`,
    ...jail.gaps.filter((gap) => !gap.includes(jail.description)).map((gap) => `          ${gap}`),
    onStop === 'pause'
      ? 'Press Ctrl-C to stop. Sandboxes are paused to disk; the next daemon resumes those that ran.'
      : 'Press Ctrl-C to stop. Sandboxes end; those paused to disk are kept.',
  ];
  cli.stderr.write(`${lines.map(plain).join('\n')}\n`);
}

function poolText({ min, max }: PoolLimits): string {
  if (max === 0) return 'none';
  const count = min === max ? `${max}` : `${min} to ${max}`;
  return max === 1 && min === 1 ? '1 idle sandbox' : `${count} idle sandboxes`;
}

/** Resolves at the first signal. */
function interrupted(cli: Cli): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  // Signal handlers do not keep a process alive.
  const alive = setInterval(() => undefined, 2 ** 30);
  const over = (): void => {
    clearInterval(alive);
    resolve();
  };
  if (cli.cancelled.aborted) over();
  cli.cancelled.addEventListener('abort', over, { once: true });
  return promise;
}

/** A second signal ends what is not paused yet. */
async function pauseAll(cli: Cli, daemon: Daemon): Promise<void> {
  const atOnce = new AbortController();
  cli.onEnd(() => atOnce.abort());
  const print = (text: string): void => void (cli.json || cli.stderr.write(`${plain(text)}\n`));
  print('stopping: pausing sandboxes to disk; press Ctrl-C again to end them instead');
  await daemon.pauseAll({
    atOnce: atOnce.signal,
    onProgress: ({ id, done, total, failure }) =>
      print(`${done} of ${total}: ${id} ${failure === null ? 'is paused' : `has ended: ${failure}`}`),
  });
}

async function farewell(control: ControlPlane): Promise<string> {
  try {
    const all = await control.list();
    const kept = all.filter(({ pausedTo }) => pausedTo === 'disk' || pausedTo === 'disk-only').length;
    const stays = kept === 0 ? '' : `; ${kept} paused to disk ${kept === 1 ? 'is' : 'are'} kept`;
    const ends = all.length - kept;
    if (ends === 0) return `stopping; no sandbox is running${stays}`;
    return `stopping ${ends} ${ends === 1 ? 'sandbox' : 'sandboxes'}${stays}`;
  } catch (error) {
    return `stopping: ${describeError(error)}`;
  }
}
