/**
 * `neurovisor run`: runs one script in a fresh sandbox, passes on its streams and exit status, and removes every trace.
 * The sandbox belongs to the daemon if one runs and supports the options, otherwise to this process.
 */

import type { Config } from '../../../base/config.ts';
import type { Cli } from '../../cli.ts';
import { UsageError } from '../../failure.ts';
import { imageOptionText, withPython } from '../../flags/image-flag.ts';
import { requirementsOf } from '../../flags/requirement-flags.ts';
import { type Daemon, openDaemon, openUsualDaemon } from '../../library/daemon.ts';
import { requireTerminal } from '../../output/terminal.ts';
import { parseOuts, requireCopies } from '../../transfer/copies.ts';
import { withBuiltImage } from '../built-image.ts';
import {
  checkJob,
  checkRequirements,
  hasImage,
  type RunFlags,
  type RunJob,
  wantsSerialConsole,
  wantsTerminal,
} from './job.ts';
import { requireProject } from './placement.ts';
import { moduleScript, readScript, type Script } from './script.ts';

/**
 * @param isProgram the words are a program of the image, not a script
 * @returns the exit status of this command: the script's own, or 124/125/128+n as in docs/run-files.md
 */
export async function run(
  cli: Cli,
  file: string | undefined,
  args: readonly string[],
  asked: RunFlags,
  isProgram = false,
): Promise<number> {
  const flags = await withPython(asked);
  const wantsConsole = wantsSerialConsole(flags);
  checkJob(flags);
  const outs = parseOuts(flags.out);
  await requireCopies(flags.copy);
  if (flags.project !== undefined) await requireProject(flags.project);
  if (wantsConsole) requireTerminal(cli, '-it');
  const isConsoleAlone = wantsConsole && file === undefined && flags.module === undefined;
  if (flags.watch === true && (isProgram || isConsoleAlone || cli.json)) {
    throw new UsageError('--watch needs a script, and excludes -o json', 'omit --watch');
  }
  if (isProgram) return await start(cli, programJob(file, args, flags, outs));
  if (flags.entrypoint !== undefined) {
    throw new UsageError('--entrypoint excludes a script', 'put the program after --');
  }
  if (hasImage(flags) && wantsTerminal(flags)) {
    throw new UsageError('-it with an image runs a program', 'put the program after --');
  }
  const script = isConsoleAlone ? null : await scriptOf(cli, file, flags);
  if (wantsConsole && script !== null && script.project !== null) {
    throw new UsageError('-it runs no directory and no module', 'bring it in with --copy');
  }
  if (flags.watch === true && script !== null) {
    const { watchedBy, watchRuns } = await import('./watch.ts');
    const words = process.argv.slice(1);
    const command = [process.execPath, ...process.execArgv, ...words.toSpliced(words.indexOf('--watch'), 1)];
    return await watchRuns(cli, watchedBy(script, flags, outs), command);
  }
  const requirements = await requirementsOf(flags, script && programOf(script, flags));
  checkRequirements(requirements, flags);
  return await start(cli, { script, program: null, args, flags, outs, requirements });
}

/** A system that the user chose has the packages that the user wants: a pyproject.toml nearby does not count. */
function programOf(script: Script, flags: RunFlags): Parameters<typeof requirementsOf>[1] {
  const { template, boot = false } = flags;
  const isChosen = hasImage(flags) || template !== undefined || boot || wantsTerminal(flags);
  return { ...script, project: script.project ?? flags.project ?? null, path: isChosen ? null : script.path };
}

function programJob(file: string | undefined, args: readonly string[], flags: RunFlags, outs: RunJob['outs']): RunJob {
  const words = file === undefined ? [] : [file, ...args];
  const option = imageOptionText(flags);
  const program = { words, entrypoint: flags.entrypoint, option };
  return { script: null, program, args: [], flags, outs, requirements: [] };
}

async function start(cli: Cli, asked: RunJob): Promise<number> {
  await using control = await daemonFor(cli, asked.flags);
  const job = { ...asked, flags: await withBuiltImage(cli, asked.flags) };
  if (control !== null) {
    const { runInDaemon } = await import('./daemon.ts');
    if (cli.config.traces === null) {
      await control.openSession();
      return await runInDaemon(cli, control, job);
    }
    const { inTrace } = await import('./traced-run.ts');
    return await inTrace(cli, async (config) => {
      await using traced = await openDaemon(withoutWait(config));
      await traced.openSession();
      return await runInDaemon(cli, traced, job);
    });
  }
  const { runHere } = await import('./here.ts');
  return await runHere(cli, job);
}

/** @throws UsageError: --daemon with an option that needs a sandbox of this process */
async function daemonFor(cli: Cli, flags: RunFlags): Promise<Daemon | null> {
  if (flags.daemon === false) return null;
  const alone = onlyHere(flags) ?? cassetteOf(cli);
  if (flags.daemon === true) {
    if (alone !== null) throw new UsageError(`--daemon excludes ${alone}`, 'omit --daemon');
    const { reachDaemon } = await import('../../daemon/reach.ts');
    return await reachDaemon(cli, withoutWait(cli.config));
  }
  const isAlone = alone !== null || (await isPulled(cli, flags));
  return isAlone ? null : await openUsualDaemon(withoutWait(cli.config));
}

/** Waits for no next daemon: a session, and so its sandbox, ends with the daemon. */
const withoutWait = (config: Config): Config => ({ ...config, daemonWaitMs: 0 });

/** The daemon would ask a model. */
const cassetteOf = ({ config: { cassette } }: Cli): string | null =>
  cassette && (cassette.mode === 'record' ? 'NEUROVISOR_RECORD' : 'NEUROVISOR_REPLAY');

/** A daemon has the models of its own start. */
async function isPulled({ config }: Cli, { model }: RunFlags): Promise<boolean> {
  if (model === undefined) return false;
  const { pulledModelPath } = await import('../../../host/runtime/pulled-models/named.ts');
  return pulledModelPath(config, model) !== null;
}

/** The option that needs a sandbox of this process; null: none. */
export function onlyHere(flags: RunFlags): string | null {
  if (wantsSerialConsole(flags)) return '-it';
  if (flags.boot === true) return '--boot';
  if (flags.jail !== undefined) return '--jail';
  if (flags.record !== undefined) return '--record';
  if (flags.replay !== undefined) return '--replay';
  if (flags.model !== undefined && /\.gguf$/i.test(flags.model)) return '--model FILE.gguf';
  return null;
}

async function scriptOf(cli: Cli, file: string | undefined, flags: RunFlags): Promise<Script> {
  if (flags.code !== undefined) {
    return { code: flags.code, filename: '<string>', path: null, project: null };
  }
  if (flags.module !== undefined) return moduleScript(flags.module, flags.project ?? '.');
  if (file === undefined) {
    throw new UsageError(
      'missing script',
      'use neurovisor run FILE, run DIR, run -m MODULE, run -c CODE, or run - for standard input',
    );
  }
  return await readScript(file, cli.stdin, imageOptionText(flags));
}
