/** `neurovisor cordon`, `uncordon` and `drain`: a host that starts nothing new, before maintenance. */
import { type Clock, systemClock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import { plain } from '../../../base/text/plain.ts';
import { orAborted, timeLimit, wait } from '../../../base/time-limit.ts';
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import { SESSION_ANNOTATION } from '../../../sandbox/contract/request.ts';
import type { Cli } from '../../cli.ts';
import { administer } from '../../daemon/administer.ts';
import { EXIT_TIMEOUT } from '../../exit-status.ts';
import type { Daemon } from '../../library/daemon.ts';
import { coarse } from '../../output/table.ts';

const TIMEOUT_MS = 10 * 60_000;
const POLL_MS = 500;
const UNDO = 'undo with: neurovisor uncordon';

export async function setCordon(cli: Cli, cordoned: boolean): Promise<number> {
  const settings = await administer(cli, (home) => home.setSettings({ cordoned }));
  if (cli.json) cli.printJson(settings);
  else if (cordoned) cli.stdout.write(`cordoned: new sandboxes are refused, those that exist go on; ${UNDO}\n`);
  else cli.stdout.write('not cordoned: new sandboxes start\n');
  return 0;
}

export interface DrainFlags {
  readonly timeout?: number;
  readonly pause?: boolean;
}

export type DrainedDaemon = Pick<Daemon, 'host' | 'list' | 'loads' | 'pause'> & {
  administration(): Promise<Pick<Awaited<ReturnType<Daemon['administration']>>, 'setSettings'>>;
};

interface Drained {
  /** Sandboxes that this command has paused. */
  readonly paused: string[];
  /** Sandboxes that could not be paused, and why. */
  readonly failed: Map<string, string>;
  /** Sandboxes that still have a VM. */
  running: readonly SandboxInfo[];
  /** Creations and forks that were admitted before. */
  starting: number;
}

/** Cordons the host, and waits until none of its sandboxes has a VM. */
export async function drain(
  cli: Cli,
  daemon: DrainedDaemon,
  { timeout = TIMEOUT_MS, pause = false }: DrainFlags,
  clock: Clock = systemClock,
): Promise<number> {
  await (await daemon.administration()).setSettings({ cordoned: true });
  using limit = timeLimit(clock, timeout, cli.cancelled);
  const drained: Drained = { paused: [], failed: new Map(), running: [], starting: 0 };
  try {
    await untilEmpty(cli, daemon, drained, { pause, clock, signal: limit.signal });
  } catch (error) {
    if (!cli.json) cli.stderr.write(`the host stays cordoned; ${UNDO}\n`);
    if (cli.cancelled.aborted || !limit.signal.aborted) throw error;
  }
  const { paused, failed, starting } = drained;
  const running = drained.running.map(({ id }) => id);
  const isEmpty = running.length + starting === 0;
  if (cli.json) cli.printJson({ drained: isEmpty, paused, running, starting, failed: Object.fromEntries(failed) });
  else if (isEmpty) cli.stdout.write(`drained: no sandbox runs, and the host stays cordoned; ${UNDO}\n`);
  else
    cli.stderr.write(`neurovisor: not drained after ${coarse(timeout)}: ${countText(drained)}: ${running.join(' ')}\n`);
  return isEmpty ? 0 : EXIT_TIMEOUT;
}

interface Draining {
  readonly pause: boolean;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

/** @throws the signal's reason */
async function untilEmpty(
  cli: Cli,
  daemon: DrainedDaemon,
  drained: Drained,
  { pause, clock, signal }: Draining,
): Promise<void> {
  let shown = '';
  for (;;) {
    // In this order: a start that is over is in the list.
    drained.starting = (await orAborted(daemon.host(), signal)).starting;
    drained.running = (await orAborted(daemon.list(), signal)).filter(hasVm);
    if (drained.running.length + drained.starting === 0) return;
    const text = countText(drained);
    if (text !== shown && !cli.json) cli.stderr.write(`waiting: ${text}\n`);
    shown = text;
    if (pause) await pauseAll(cli, daemon, drained, signal);
    await wait(clock, POLL_MS, signal);
  }
}

const hasVm = ({ status, pausedTo }: SandboxInfo): boolean =>
  status === 'running' || (status === 'paused' && pausedTo === 'memory');

function countText({ running, starting }: Drained): string {
  const run = running.length === 1 ? '1 sandbox runs' : `${running.length} sandboxes run`;
  return starting === 0 ? run : `${run}, ${starting} more starting`;
}

/** Those without a model request first. One that belongs to a client's session ends with its client instead. */
async function pauseAll(cli: Cli, daemon: DrainedDaemon, drained: Drained, signal: AbortSignal): Promise<void> {
  const { sandboxes } = await orAborted(daemon.loads(), signal);
  const requests = new Map(sandboxes.map(({ id, modelRequests }) => [id, modelRequests]));
  const requestsOf = ({ id }: SandboxInfo): number => requests.get(id) ?? 0;
  for (const one of drained.running.toSorted((a, b) => requestsOf(a) - requestsOf(b))) {
    const { id, annotations } = one;
    if (drained.failed.has(id) || SESSION_ANNOTATION in annotations) continue;
    try {
      await orAborted(daemon.pause(id, 'disk'), signal);
      drained.paused.push(id);
      if (!cli.json) cli.stderr.write(`paused ${id}\n`);
    } catch (error) {
      signal.throwIfAborted();
      drained.failed.set(id, describeError(error));
      if (!cli.json) cli.stderr.write(`could not pause ${id}: ${plain(describeError(error))}\n`);
    }
  }
}
