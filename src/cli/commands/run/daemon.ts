/**
 * `neurovisor run` with a sandbox of the daemon: create, run the script, remove. It starts from the
 * daemon's pool, so that nothing has to be set up here.
 */
import { type Clock, systemClock } from '../../../base/clock.ts';
import { errorCode } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import type { ControlPlane, SandboxInfo } from '../../../sandbox/control.ts';
import type { EndInfo } from '../../../sandbox/ending.ts';
import { type Cli, INTERRUPT_GRACE_MS } from '../../cli.ts';
import { UsageError } from '../../failure.ts';
import { checkModelThere } from '../../flags/offered.ts';
import { sandboxOptions } from '../../flags/sandbox-flags.ts';
import { endAfterLoss, statusOfEnd, watchFullDisk } from '../../output/loss.ts';
import { exitStatus, relay } from '../../output/program-streams.ts';
import { phases, timingsTable } from '../../output/timings.ts';
import { copyForRun } from '../../transfer/copy-in.ts';
import { pythonSpec, type RunJob, type RunReport, readsStdin } from './job.ts';
import type { Script } from './script.ts';

/** A command that is killed can't remove its sandbox: the daemon does when nobody has asked for so long. */
export const LEASE_MS = 60_000;
const RENEWAL_MS = LEASE_MS / 3;

export async function runInDaemon(
  cli: Cli,
  control: ControlPlane,
  job: RunJob,
  clock: Clock = systemClock,
): Promise<number> {
  const { script, flags } = job;
  if (script === null) throw new UsageError('nothing to run');
  const model = flags.model === undefined ? {} : { defaultModel: flags.model };
  const request = { ...sandboxOptions(cli, flags, model), timeoutMs: LEASE_MS };
  await checkModelThere(control, flags.model);
  const info = await control.create(request, cli.cancelled);
  const stopRenewing = renew(control, info.id, clock);
  let removal: Promise<void> | undefined;
  const remove = (): Promise<void> => {
    removal ??= removeQuietly(cli, control, info.id);
    return removal;
  };
  // The first signal ends the script, the second everything; SIGTERM and SIGHUP everything at once.
  cli.onEnd(() => void remove());
  let full: string | null = null;
  const stopWatching = watchFullDisk(control, info.id, (text) => {
    // Nobody would resume it.
    full = text;
    void remove();
  });
  try {
    return await runScript(cli, control, { info, script, job, fullDisk: () => full });
  } finally {
    stopWatching();
    stopRenewing();
    await remove();
  }
}

interface Started {
  readonly info: SandboxInfo;
  readonly script: Script;
  readonly job: RunJob;
  /** Why it was given up; null: it was not. */
  fullDisk(): string | null;
}

async function runScript(cli: Cli, control: ControlPlane, run: Started): Promise<number> {
  const { info, script, job } = run;
  const { flags } = job;
  const guest = await control.guest(info.id);
  for (const path of flags.copy) await copyForRun(cli, guest, path);
  const asked = performance.now();
  const process = await guest.python(pythonSpec(script, job.args, flags));
  const started = performance.now();
  const stdin = readsStdin(script);
  const relayed = await relay(cli, process, { stdin, graceMs: INTERRUPT_GRACE_MS });
  const ended = performance.now();
  const { exit, stdout, stderr, firstAt: first } = relayed;
  const end = exit === null ? await endOf(cli, control, run, relayed.lost) : null;
  if (cli.json || flags.timings === true) {
    const usage = end === null ? await control.usage(info.id) : [];
    const { timings, readyMs: claimMs } = info;
    const list = phases({ timings, claimMs }, { asked, started, first, ended }, usage);
    if (cli.json) {
      cli.printJson({
        ...{ sandbox: info.id, accelerator: info.accelerator, exit, end: end?.cause ?? null },
        ...{ stdout, stderr, phases: list, usage },
      } satisfies RunReport);
    } else {
      cli.stderr.write(`${timingsTable(list, (await control.host()).vmm)}\n`);
    }
  }
  if (exit !== null) return exitStatus(cli, exit, 'the script');
  return statusOfEnd(cli, end ?? { cause: 'agent-lost', detail: '' }, 'the script');
}

async function endOf(
  cli: Cli,
  control: ControlPlane,
  { info, fullDisk }: Started,
  lost: unknown,
): Promise<Pick<EndInfo, 'cause' | 'detail'>> {
  const full = fullDisk();
  if (full !== null) return { cause: 'host-disk-full', detail: full };
  return await endAfterLoss(cli, control, info.id, lost);
}

/** Puts the end of the sandbox off for as long as this command lives. Returns how to stop. */
function renew(control: ControlPlane, id: string, clock: Clock): () => void {
  let cancel: () => void;
  const next = (): void => {
    cancel = clock.after(RENEWAL_MS, () => {
      control
        .update(id, { timeoutMs: LEASE_MS })
        .catch((error: unknown) => ignore(error, 'its end, or the next request, tells'));
      next();
    });
  };
  next();
  return () => cancel();
}

async function removeQuietly(cli: Cli, control: ControlPlane, id: string): Promise<void> {
  try {
    await control.remove(id);
  } catch (error) {
    const code = errorCode(error);
    if (code === 'gone' || code === 'not_found') ignore(error, 'it has ended by itself');
    else cli.log.warn('the sandbox could not be removed now; it ends within a minute', { id });
  }
}
