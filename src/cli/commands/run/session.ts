/**
 * One run: a sandbox is created, the script runs in it, the sandbox is removed. The same for a sandbox of the
 * daemon (`daemon.ts`) and for one of this process (`here.ts`).
 */
import { resolve } from 'node:path';
import { fileOptions } from '../../../artifacts/transfer/transfer.ts';
import { errorCode } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import { plain } from '../../../base/text/plain.ts';
import type { CassetteReport } from '../../../host/runtime/model-servers/tape.ts';
import type { UsageRecord } from '../../../inference/bridge/bridge.ts';
import type { Guest, Process } from '../../../machine/guest/link.ts';
import type { ControlPlane, CreateRequest, SandboxInfo } from '../../../sandbox/contract/control.ts';
import type { EndInfo } from '../../../sandbox/contract/ending.ts';
import { type Cli, SIGNAL_GRACE_MS } from '../../cli.ts';
import { EXIT_NO_RESULTS } from '../../exit-status.ts';
import { UsageError } from '../../failure.ts';
import { endAfterLoss, statusOfEnd, watchFullDisk } from '../../output/loss.ts';
import { exitStatus, hasFailed, relay } from '../../output/program-streams.ts';
import { phases, timingsTable } from '../../output/timings.ts';
import { exec, withProgramStatus } from '../exec.ts';
import { type RunJob, type RunReport, readsStdin, runOptions, wantsTerminal } from './job.ts';
import { missingFileHint, type Placement, placeCopies, placeFiles, requirementsBeside } from './placement.ts';
import { argvOf, stopSignalOf } from './program.ts';
import { copyResults, lostResults, type OutReport } from './results.ts';
import type { SyncReport } from './sync.ts';

/** The sandbox of a run, ready. */
export interface RunSandbox {
  readonly info: SandboxInfo;
  /** Why the run was given up: the host's file system is full. Null: it was not. */
  fullDisk(): string | null;
  /** Idempotent. Never rejects. */
  remove(): Promise<void>;
}

/**
 * Creates a sandbox for `work` and removes it afterwards. A second signal removes it at once, and so does a full host
 * file system, since a paused run could not be resumed.
 * @param wait shows that the creation takes long
 */
export async function withSandbox(
  cli: Cli,
  control: ControlPlane,
  request: CreateRequest,
  work: (sandbox: RunSandbox) => Promise<number>,
  wait = (creating: Promise<SandboxInfo>): Promise<SandboxInfo> => creating,
): Promise<number> {
  const info = await wait(control.create(request, cli.cancelled));
  let removal: Promise<void> | undefined;
  const remove = (): Promise<void> => {
    removal ??= removeQuietly(cli, control, info.id);
    return removal;
  };
  cli.onEnd(() => void remove());
  let full: string | null = null;
  const stopWatching = watchFullDisk(control, info.id, (text) => {
    full = text;
    void remove();
  });
  try {
    return await work({ info, fullDisk: () => full, remove });
  } catch (error) {
    if (full === null) throw error;
    ignore(error, 'caused by the full file system, which is reported');
    return statusOfEnd(cli, { cause: 'host-disk-full', detail: full }, 'the script');
  } finally {
    stopWatching();
    await remove();
  }
}

export interface Run {
  readonly sandbox: RunSandbox;
  readonly job: RunJob;
  /** The program's requests to the model. */
  usage(): Promise<readonly UsageRecord[]>;
  /** Absent: models are asked, and nothing is recorded. */
  cassette?(): CassetteReport | null;
}

/** Runs the script or program on this command's streams. @returns the exit status of this command */
export async function runJob(cli: Cli, control: ControlPlane, run: Run): Promise<number> {
  const { job } = run;
  const guest = await control.guest(run.sandbox.info.id);
  const placed = await place(cli, guest, run.sandbox.info, job);
  if (job.program === null) return await runPlaced(cli, control, run, guest, placed);
  return await withProgramStatus(cli, () => runPlaced(cli, control, run, guest, placed));
}

async function runPlaced(cli: Cli, control: ControlPlane, run: Run, guest: Guest, placed: Placed): Promise<number> {
  const { sandbox, job } = run;
  const { flags, script } = job;
  const what = script === null ? 'the program' : 'the script';
  const { id, accelerator, timings, readyMs: claimMs } = sandbox.info;
  const { copied, project, cwd, argv, stdin } = placed;
  if (argv !== null && wantsTerminal(flags)) {
    const { user, timeout } = flags;
    const given = Object.entries({ user, timeout, workdir: cwd ?? undefined });
    const options = Object.fromEntries(given.filter(([, value]) => value !== undefined));
    return await exec(cli, control, id, argv, { env: [], tty: true, ...options });
  }
  const asked = performance.now();
  const process = await placed.start();
  const started = performance.now();
  const relayed = await relay(cli, process, {
    stdin,
    graceMs: SIGNAL_GRACE_MS,
    ...(script === null ? stopSignalOf(sandbox.info.image) : {}),
  });
  const ended = performance.now();
  const { exit, stdout, stderr, firstAt: first } = relayed;
  const end = exit === null ? await endOf(cli, control, sandbox, relayed.lost) : null;
  // From here on nothing of the script is left to end: a signal ends this command.
  cli.stopForwardingSignals();
  const brought = await bringBack(cli, exit === null ? null : guest, job, { cwd, project, copied });
  if (cli.json || flags.timings === true) {
    const usage = await run.usage();
    const list = phases({ timings, claimMs }, { asked, started, first, ended }, usage);
    if (cli.json) {
      cli.printJson({
        sandbox: id,
        accelerator,
        exit,
        end: end?.cause ?? null,
        stdout,
        stderr,
        encoding: relayed.encoding,
        truncated: relayed.truncated,
        phases: list,
        usage,
        cassette: run.cassette?.() ?? null,
        out: brought.out,
        sync: brought.sync,
      } satisfies RunReport);
    } else {
      cli.stderr.write(`${timingsTable(list, await control.host())}\n`);
    }
  }
  if (exit !== null) {
    if (!cli.json && hasFailed(exit)) {
      const hint = await hintOf(run, copied, relayed.lastStderr);
      if (hint !== null) cli.stderr.write(`neurovisor: ${plain(hint)}\n`);
    }
    const status = exitStatus(cli, exit, what);
    if (status !== 0 || brought.isComplete) return status;
    return cli.signalStatus ?? EXIT_NO_RESULTS;
  }
  const status = statusOfEnd(cli, end ?? { cause: 'agent-lost', detail: '' }, what);
  const wantsResults = job.outs.length > 0 || flags.sync === true;
  return status === 0 && wantsResults ? EXIT_NO_RESULTS : status;
}

async function hintOf({ sandbox, job }: Run, copied: Placement['copied'], stderr: string): Promise<string | null> {
  const { script, flags } = job;
  const file = script === null ? null : await missingFileHint(script, copied, stderr);
  if (file !== null) return file;
  const { failureHint } = await import('../../output/failure-hint.ts');
  const { requirements: used } = flags;
  const isUsed = used !== undefined && used !== false && used.length > 0;
  const requirements = script === null || isUsed ? null : await requirementsBeside(script);
  return failureHint(stderr, { ...sandbox.info, how: 'add', requirements });
}

/** Where the program starts, and how. */
interface Placed {
  readonly copied: Placement['copied'];
  readonly project: Placement['project'];
  readonly cwd: string | null;
  /** Null: it is a script. */
  readonly argv: readonly string[] | null;
  readonly stdin: boolean;
  start(): Promise<Process>;
}

async function place(cli: Cli, guest: Guest, info: SandboxInfo, job: RunJob): Promise<Placed> {
  const { script, program, args, flags } = job;
  if (script !== null) {
    const { spec, ...copies } = await placeFiles(cli, guest, script, flags);
    const stdin = readsStdin(script);
    const start = () => guest.python({ ...spec, args, ...runOptions(job, stdin) });
    return { ...copies, cwd: spec.cwd ?? null, argv: null, stdin, start };
  }
  if (program === null) throw new UsageError('nothing to run');
  const argv = argvOf(program, info.image);
  const copies = await placeCopies(cli, guest, flags);
  const at = copies.cwd === null ? {} : { cwd: copies.cwd };
  const start = () => guest.exec({ argv, ...at, ...runOptions(job, true) });
  return { ...copies, argv, stdin: true, start };
}

interface Brought {
  readonly out: readonly OutReport[];
  readonly sync: SyncReport | null;
  /** False: something of it did not come back. */
  readonly isComplete: boolean;
}

/** @param guest null: the sandbox has ended */
async function bringBack(
  cli: Cli,
  guest: Guest | null,
  { flags, outs }: RunJob,
  { cwd, project, copied }: Pick<Placement, 'project' | 'copied'> & { readonly cwd: string | null },
): Promise<Brought> {
  const { user, sync: wantsSync = false, yes = false } = flags;
  if (guest === null) return { out: lostResults(cli, outs), sync: null, isComplete: false };
  const out = await copyResults(cli, guest, outs, { user, cwd });
  const isCopied = out.every(({ error }) => error === null);
  if (project === null || !wantsSync) return { out, sync: null, isComplete: isCopied };
  const home = await homeOf(guest, user);
  const absolute = (path: string): string => resolve(home, path.replace(/^~(\/|$)/, './'));
  const others = new Set(copied.filter((one) => one !== project).map(({ to }) => absolute(to)));
  const skip = (path: string): boolean => others.has(`${absolute(project.to)}/${path}`);
  const { isSynced, syncBack } = await import('./sync.ts');
  const sync = await syncBack(cli, guest, project, { user, yes, skip });
  return { out, sync, isComplete: isCopied && isSynced(sync) };
}

/** Where relative paths in the guest start; any directory if it does not say. */
async function homeOf(guest: Guest, user: string | undefined): Promise<string> {
  try {
    return (await guest.files.stat('~', fileOptions({ user }))).path;
  } catch (error) {
    ignore(error, 'the copy that follows reports what is wrong with the guest');
    return '/';
  }
}

async function endOf(
  cli: Cli,
  control: ControlPlane,
  { info, fullDisk }: RunSandbox,
  lost: unknown,
): Promise<Pick<EndInfo, 'cause' | 'detail'>> {
  const full = fullDisk();
  if (full !== null) return { cause: 'host-disk-full', detail: full };
  return await endAfterLoss(cli, control, info.id, lost);
}

async function removeQuietly(cli: Cli, control: ControlPlane, id: string): Promise<void> {
  try {
    await control.remove(id);
  } catch (error) {
    const code = errorCode(error);
    if (code === 'gone' || code === 'not_found') ignore(error, 'the sandbox ended by itself');
    else cli.log.warn('the sandbox could not be removed now; it ends with this command', { id });
  }
}
