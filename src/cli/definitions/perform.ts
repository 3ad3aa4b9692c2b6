/**
 * Runs one command: configuration, signals, exit status. Imports what a command needs only when it runs, so that
 * help appears at once.
 */

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Config } from '../../base/config.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import type { Cli } from '../cli.ts';
import { EXIT_NEUROVISOR_FAILED, EXIT_USAGE, exitOfSignal, HANDLED_SIGNALS } from '../exit-status.ts';
import { printFailure, UsageError } from '../failure.ts';
import type { Daemon } from '../library/daemon.ts';

export interface OutputFlags {
  readonly output?: string;
  /** Overrides NEUROVISOR_VMM. */
  readonly vmm?: string;
}

/** Runs one command, on the daemon of the context unless another is named, and sets the exit status. */
export async function perform(flags: OutputFlags, body: (cli: Cli) => Promise<number>): Promise<void> {
  await performWith(flags, true, body);
}

/** As `perform`, without the context: for the daemon itself, and for what chooses a context. */
export async function performAlone(flags: OutputFlags, body: (cli: Cli) => number | Promise<number>): Promise<void> {
  await performWith(flags, false, body);
}

async function performWith(
  { output, vmm }: OutputFlags,
  hasContext: boolean,
  body: (cli: Cli) => number | Promise<number>,
): Promise<void> {
  const json = output === 'json';
  let cli: Cli | undefined;
  for (const signal of HANDLED_SIGNALS) {
    process.on(signal, () => {
      if (cli === undefined) process.exit(exitOfSignal(signal));
      cli.handleSignal(signal);
    });
  }
  // The last write may fail after the command has set its status.
  process.once('exit', () => {
    if (cli?.isOutputClosed === true) process.exitCode = exitOfSignal('SIGPIPE');
  });
  try {
    cli = await openCli(json, vmm, hasContext);
    process.exitCode = await body(cli);
  } catch (error) {
    cli?.progress.close();
    const signalStatus = cli?.signalStatus ?? null;
    process.exitCode = signalStatus ?? statusOf(error);
    if (signalStatus === null) printFailure(error, json);
  } finally {
    cli?.progress.close();
    if (!process.stdin.isTTY) process.stdin.destroy();
    else process.stdin.unref();
  }
}

/** Runs a command for the home of this machine: a daemon at NEUROVISOR_URL has a home of its own. */
export function performHere(flags: OutputFlags, body: (cli: Cli) => Promise<number>): Promise<void> {
  return perform(flags, async (cli) => {
    if (cli.config.daemonUrl !== null) {
      const { daemonContext: context } = cli.config;
      const [by, less] =
        context === null
          ? ['NEUROVISOR_URL', 'unset NEUROVISOR_URL']
          : [`the context ${context}`, 'choose this home: neurovisor context use local'];
      const remedy = `run it on the host of that daemon, or ${less}`;
      throw new UsageError(`this command acts on this machine, and ${by} names a daemon`, remedy);
    }
    return await body(cli);
  });
}

async function openCli(json: boolean, vmm: string | undefined, hasContext: boolean): Promise<Cli> {
  const { readConfig } = await import('../../base/config.ts');
  const { Cli } = await import('../cli.ts');
  const { measuredIn, progressView } = await import('../output/progress.ts');
  const { resolveHome } = await import('../../base/home.ts');
  const env = vmm === undefined ? process.env : { ...process.env, NEUROVISOR_VMM: vmm };
  const config = hasContext ? await inContext(readConfig(env)) : readConfig(env);
  return new Cli({
    streams: process,
    env: process.env,
    config,
    progress: progressView(process.stderr, { measured: measuredIn(resolveHome(config.home).cacheDir) }),
    json,
  });
}

/** Loads what reads contexts only where there is one. @throws ConfigError */
async function inContext(config: Config): Promise<Config> {
  const { resolveHome } = await import('../../base/home.ts');
  if (!existsSync(join(resolveHome(config.home).dir, 'contexts.json'))) return config;
  const { withContext } = await import('../daemon/contexts.ts');
  return withContext(config);
}

/**
 * Runs a command that needs the daemon.
 * @param check validates the command line before the daemon is contacted
 */
export function performThere(
  flags: OutputFlags,
  body: (cli: Cli, control: Daemon) => Promise<number>,
  check: (cli: Cli) => unknown = () => undefined,
): Promise<void> {
  return perform(flags, async (cli) => {
    await check(cli);
    const { reachDaemon } = await import('../daemon/reach.ts');
    await using control = await reachDaemon(cli);
    return await body(cli, control);
  });
}

/** Codes of the control plane that mean an invalid argument: an unknown id, an impossible spec. */
const USAGE_CODES: ReadonlySet<string> = new Set(['not_found', 'spec_invalid']);

function statusOf(error: unknown): number {
  const isUsage = error instanceof UsageError || (error instanceof SandboxError && USAGE_CODES.has(error.code));
  return isUsage ? EXIT_USAGE : EXIT_NEUROVISOR_FAILED;
}
