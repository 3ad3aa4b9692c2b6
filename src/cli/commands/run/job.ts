/** What `run` is to do and what it tells, whoever has the sandbox: this process or the daemon. */
import type { UsageRecord } from '../../../bridge/bridge.ts';
import type { JailMode } from '../../../config.ts';
import type { ProcessExit, PythonSpec } from '../../../guest/link.ts';
import type { SandboxEnd } from '../../../sandbox/ending.ts';
import { UsageError } from '../../failure.ts';
import * as ranges from '../../flags/ranges.ts';
import type { SandboxFlags } from '../../flags/sandbox-flags.ts';
import type { Truncated } from '../../output/program-streams.ts';
import type { Phase } from '../../output/timings.ts';
import type { Script } from './script.ts';

export interface RunFlags extends SandboxFlags {
  readonly code?: string;
  readonly interactive?: boolean;
  readonly tty?: boolean;
  readonly copy: readonly string[];
  readonly timeout?: string;
  readonly model?: string;
  readonly user?: string;
  readonly timings?: boolean;
  readonly jail?: JailMode;
  /** False with `--no-template`. */
  readonly template?: boolean;
  /** True with `--daemon`, false with `--no-daemon`. */
  readonly daemon?: boolean;
}

/** What is to run, wherever. */
export interface RunJob {
  /** Null: only with a console. */
  readonly script: Script | null;
  readonly args: readonly string[];
  readonly flags: RunFlags;
}

/** What `-o json` prints when the script has ended. */
export interface RunReport {
  readonly sandbox: string;
  readonly accelerator: string;
  readonly exit: ProcessExit | null;
  readonly end: SandboxEnd['cause'] | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly truncated: Truncated;
  readonly phases: readonly Phase[];
  readonly usage: readonly UsageRecord[];
}

/** What is wrong with it, before anything is started for it. @throws UsageError */
export function checkJob(flags: RunFlags): void {
  if (flags.timeout !== undefined) ranges.timeout(flags.timeout);
  const { interactive = false, tty = false } = flags;
  if (interactive !== tty) {
    const remedy = 'use -it for the console; without it, the script reads standard input';
    throw new UsageError(`${tty ? '-t' : '-i'} alone has no effect: -i and -t go together`, remedy);
  }
}

/** What the guest is asked for. */
export function pythonSpec(script: Script, args: readonly string[], flags: RunFlags): PythonSpec {
  const { code, filename } = script;
  return {
    script: filename === '<string>' ? { code } : { code, name: filename },
    args,
    stdin: readsStdin(script),
    ...(flags.timeout === undefined ? {} : { timeoutMs: ranges.timeout(flags.timeout) }),
    ...(flags.user === undefined ? {} : { user: flags.user }),
  };
}

/** Standard input is the script's, unless the script came by it. */
export function readsStdin(script: Script): boolean {
  return script.filename !== '<stdin>';
}
