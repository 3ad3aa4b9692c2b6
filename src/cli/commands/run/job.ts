/** The work of a `run` and its report, whether the sandbox is this process's or the daemon's. */

import type { JailMode } from '../../../base/config.ts';
import type { CassetteReport } from '../../../host/runtime/model-servers/tape.ts';
import type { UsageRecord } from '../../../inference/bridge/bridge.ts';
import type { ProcessExit, RunOptions } from '../../../machine/guest/link.ts';
import type { SandboxEnd } from '../../../sandbox/contract/ending.ts';
import { UsageError } from '../../failure.ts';
import { type CassetteFlags, cassetteChoice } from '../../flags/cassette-flags.ts';
import { imageOptionText } from '../../flags/image-flag.ts';
import * as ranges from '../../flags/ranges.ts';
import { type SandboxFlags, templateOption } from '../../flags/sandbox-fields.ts';
import type { Encoding, Truncated } from '../../output/program-streams.ts';
import type { Phase } from '../../output/timings.ts';
import type { Out } from '../../transfer/copies.ts';
import type { Program } from './program.ts';
import type { OutReport } from './results.ts';
import type { Script } from './script.ts';
import type { SyncReport } from './sync.ts';

export interface RunFlags extends SandboxFlags, CassetteFlags {
  readonly code?: string;
  readonly interactive?: boolean;
  readonly tty?: boolean;
  /** Module to run instead of a file, as `python -m`. */
  readonly module?: string;
  readonly copy: readonly string[];
  readonly out: readonly string[];
  /** Copied, and where the script starts. */
  readonly project?: string;
  readonly sync?: boolean;
  readonly yes?: boolean;
  readonly timeout?: string;
  readonly model?: string;
  readonly user?: string;
  /** In the guest. */
  readonly workdir?: string;
  /** Instead of the image's; empty: none. */
  readonly entrypoint?: string;
  /** Version: as in `3.12`. */
  readonly python?: string;
  readonly timings?: boolean;
  readonly watch?: boolean;
  readonly jail?: JailMode;
  /** True with `--daemon`, false with `--no-daemon`. */
  readonly daemon?: boolean;
}

/** A script, or a program of an image, with its arguments and options. */
export interface RunJob {
  /** Null: a console without a script, or `program`. */
  readonly script: Script | null;
  /** Null: `script`. */
  readonly program: Program | null;
  readonly args: readonly string[];
  readonly flags: RunFlags;
  /** What `--out` names. */
  readonly outs: readonly Out[];
  /** Python packages, as lines of a requirements file. */
  readonly requirements: readonly string[];
}

/** The output of `-o json`. */
export interface RunReport {
  readonly sandbox: string;
  readonly accelerator: string;
  readonly exit: ProcessExit | null;
  readonly end: SandboxEnd['cause'] | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly encoding: Encoding;
  readonly truncated: Truncated;
  readonly phases: readonly Phase[];
  readonly usage: readonly UsageRecord[];
  /** Null without `--record` and `--replay`. */
  readonly cassette: CassetteReport | null;
  /** One for each `--out`. */
  readonly out: readonly OutReport[];
  /** Null without `--sync`, or if the sandbox ended first. */
  readonly sync: SyncReport | null;
}

/** Checks the options before anything is started. @throws UsageError */
export function checkJob(flags: RunFlags): void {
  if (flags.timeout !== undefined) ranges.timeout(flags.timeout);
  const { interactive = false, tty = false } = flags;
  const { project, sync = false, yes = false, out } = flags;
  if (sync && project === undefined) {
    throw new UsageError('--sync needs --project', 'use --project DIR --sync');
  }
  if (yes && !sync) throw new UsageError('--yes needs --sync', 'use --project DIR --sync --yes');
  if (project !== undefined && flags.workdir !== undefined) {
    throw new UsageError('--project and --workdir are mutually exclusive', 'omit one of them');
  }
  checkWorkdir(flags.workdir);
  if (flags.entrypoint !== undefined && !mayHaveImage(flags)) {
    throw new UsageError('--entrypoint needs --image, --build or --template', 'add --image IMAGE');
  }
  cassetteChoice(flags, { cassette: null });
  templateOption(flags);
  if (interactive && tty && typeof flags.template === 'string') {
    const remedy = 'use create --template and shell with the daemon: neurovisor serve';
    throw new UsageError('-it excludes --template', remedy);
  }
  if (interactive && tty && (out.length > 0 || project !== undefined)) {
    const remedy = 'use create, shell and cp with the daemon: neurovisor serve';
    throw new UsageError('-it excludes --out and --project', remedy);
  }
  if (interactive !== tty) {
    const remedy = 'use -it for the console; without it, the script reads standard input';
    throw new UsageError(`${tty ? '-t' : '-i'} alone has no effect: -i and -t go together`, remedy);
  }
}

/** A path of this machine looks like this, and copying it has its own option. @throws UsageError */
function checkWorkdir(workdir: string | undefined): void {
  if (workdir === undefined || !/^\.\.?(\/|$)/.test(workdir)) return;
  const remedy = `copy a directory of this machine with --project ${workdir}`;
  throw new UsageError(`--workdir ${workdir}: not a directory in the guest`, remedy);
}

/** `-it`. */
export function wantsTerminal({ interactive = false, tty = false }: RunFlags): boolean {
  return interactive && tty;
}

/** A named template may have an image. */
function mayHaveImage(flags: RunFlags): boolean {
  return hasImage(flags) || typeof flags.template === 'string';
}

/** `--image` or `--build`. */
export function hasImage(flags: Pick<RunFlags, 'image' | 'build'>): boolean {
  return imageOptionText(flags) !== undefined;
}

/** With an image, `-it` gives its program a terminal of its own. */
export function wantsSerialConsole(flags: RunFlags): boolean {
  return wantsTerminal(flags) && !hasImage(flags);
}

/** Packages are on the disk of a template, and these boot without one. @throws UsageError */
export function checkRequirements(requirements: readonly string[], flags: RunFlags): void {
  if (requirements.length === 0) return;
  const boots = flags.boot === true ? '--boot' : flags.tty === true ? '-it' : null;
  if (boots === null) return;
  throw new UsageError(`${boots} excludes packages: they come with a template`, `omit ${boots}`);
}

/** The request to the guest, for a script and a program. */
export function runOptions({ flags }: Pick<RunJob, 'flags'>, stdin: boolean): RunOptions {
  return {
    stdin,
    ...(flags.timeout === undefined ? {} : { timeoutMs: ranges.timeout(flags.timeout) }),
    ...(flags.user === undefined ? {} : { user: flags.user }),
  };
}

/** The script gets standard input, unless the script itself was read from it. */
export function readsStdin(script: Script): boolean {
  return script.filename !== '<stdin>';
}
