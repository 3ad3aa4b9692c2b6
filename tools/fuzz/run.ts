/** `neurovisor fuzz`: selects targets and inputs, and prints results. */

import { resolveHome } from '../../src/base/home.ts';
import type { Cli } from '../../src/cli/cli.ts';
import { UsageError } from '../../src/cli/failure.ts';
import { parseCount, parseDuration } from '../../src/cli/flags/options.ts';
import { keepCrasher, keepInputs, keptInputs, keptPath } from '../../test/fuzz/kept-inputs.ts';
import { CANARY, HANGING_CANARY, loadTarget, TARGETS } from '../../test/fuzz/registry.ts';
import { replay } from '../../test/fuzz/replay.ts';
import { runSeed } from '../../test/support/run-seed.ts';
import { runProgram, type Shell } from '../test/child.ts';
import { AGENT_CANARY, AGENT_TARGETS, runAgentCampaign } from './agent.ts';
import { type CampaignOptions, type CampaignResult, type Found, runCampaign } from './campaign.ts';
import type { Progress } from './messages.ts';
import { WorkDir } from './work-dir.ts';

export interface FuzzFlags {
  readonly list?: boolean;
  readonly time: string;
  readonly seed?: string;
  readonly jobs: string;
  readonly minimize?: boolean;
  readonly replay?: boolean;
}

const ALL = [...AGENT_TARGETS, ...Object.keys(TARGETS)];
const CANARIES = [CANARY, HANGING_CANARY, AGENT_CANARY];
/** Started only by name: they take longer, and need more of the machine. */
const PROGRAMS: Readonly<Record<string, string>> = {
  rest: 'tools/fuzz-rest.ts',
  'vsock-device': 'tools/hostile-front-end.ts',
};
const QUIET_MS = 30_000;
/** Maximum size of one target's inputs in the repository. */
const KEPT_BYTES_MAX = 18 * 1024;
const KEPT_INPUT_BYTES_MAX = 2048;

export async function runFuzz(cli: Cli, words: readonly string[], flags: FuzzFlags): Promise<number> {
  const print = (text: string): void => void cli.stdout.write(`${text}\n`);
  if (flags.list === true) {
    for (const name of ALL) print(listed(name));
    for (const [name, path] of Object.entries(PROGRAMS)) print(`${name.padEnd(20)} ${path}`);
    return 0;
  }
  const names = namesOf(words);
  const timeMs = parseDuration(flags.time);
  const jobs = Math.max(1, parseCount(flags.jobs));
  if (flags.seed !== undefined) process.env['NEUROVISOR_SEED'] = String(parseCount(flags.seed));
  const seed = runSeed();
  const work = new WorkDir(resolveHome(cli.config.home).cacheDir);
  if (flags.replay === true) return await replayAll(names, print);
  print(`seed ${seed} (repeat with --seed ${seed})`);
  const oneByOne = names.length === 1 ? jobs : 1;
  const waiting = [...names];
  let status = 0;
  const lane = async (): Promise<void> => {
    for (let name = waiting.shift(); name !== undefined; name = waiting.shift()) {
      if (cli.cancelled.aborted) return;
      const program = PROGRAMS[name];
      if (program !== undefined) {
        status = (await runProgramOf(cli, program, flags.time, seed)) === 0 ? status : 1;
        continue;
      }
      const context = { cli, name, seed, jobs: oneByOne, timeMs, work, print };
      const result = flags.minimize === true ? await minimize(context) : await fuzz(context);
      if (result.found !== undefined) status = 1;
    }
  };
  await Promise.all(Array.from({ length: Math.min(jobs, names.length) }, lane));
  return status === 0 ? (cli.signalStatus ?? 0) : status;
}

function namesOf(words: readonly string[]): readonly string[] {
  if (words.length === 0) throw new UsageError('no fuzz target is named', `use all, or ${ALL.join(', ')}`);
  const names = words.flatMap((word) => (word === 'all' ? ALL : [word]));
  const unknown = names.find((name) => !isTarget(name));
  if (unknown === undefined) return [...new Set(names)];
  throw new UsageError(`no fuzz target "${unknown}"`, `use all, or ${ALL.join(', ')}`);
}

const isTarget = (name: string): boolean =>
  ALL.includes(name) || CANARIES.includes(name) || Object.hasOwn(PROGRAMS, name);

function runProgramOf(cli: Cli, path: string, time: string, seed: number): Promise<number> {
  const shell: Shell = {
    signal: cli.cancelled,
    env: cli.env,
    isTerminal: cli.stdout.isTTY,
    write: (text) => void cli.stdout.write(text),
  };
  return runProgram(shell, [process.execPath, path, '--time', time, '--seed', String(seed)]);
}

function listed(name: string): string {
  const [corpus, crashers] = [keptInputs('corpus', name), keptInputs('crashers', name)];
  return `${name.padEnd(20)} ${corpus.length} inputs, ${crashers.length} crashers`;
}

async function replayAll(names: readonly string[], print: (text: string) => void): Promise<number> {
  let status = 0;
  for (const name of names) {
    if (AGENT_TARGETS.includes(name)) {
      print(`${name}: ./neurovisor test guest runs its kept inputs`);
      continue;
    }
    const failure = await replay(await loadTarget(name));
    print(failure === undefined ? `${name}: every kept input passes` : failure);
    if (failure !== undefined) status = 1;
  }
  return status;
}

interface Context {
  readonly cli: Cli;
  readonly name: string;
  readonly seed: number;
  readonly jobs: number;
  readonly timeMs: number;
  readonly work: WorkDir;
  print(text: string): void;
}

/** libFuzzer has no jobs here: start another command. */
function campaign({ cli, name }: Context, options: CampaignOptions): Promise<CampaignResult> {
  const isAgent = AGENT_TARGETS.includes(name) || name === AGENT_CANARY;
  if (!isAgent) return runCampaign(options);
  return runAgentCampaign({ ...options, cacheDir: resolveHome(cli.config.home).cacheDir });
}

const known = ({ name, work }: Context): readonly Uint8Array[] => [
  ...keptInputs('crashers', name),
  ...keptInputs('corpus', name),
  ...work.inputs(name),
];

async function fuzz(context: Context): Promise<CampaignResult> {
  const { cli, name, seed, jobs, timeMs, work, print } = context;
  let printedMs = performance.now();
  const result = await campaign(context, {
    name,
    seed,
    jobs,
    timeMs,
    inputs: known(context),
    signal: cli.cancelled,
    onInput: (bytes) => work.add(name, bytes),
    onProgress: (progress) => {
      if (performance.now() - printedMs < QUIET_MS) return;
      printedMs = performance.now();
      print(`${name}: ${figures(progress)}`);
    },
  });
  const { progress, found } = result;
  print(`${name}: ${figures(progress)}${found === undefined ? '; no failure' : ''}`);
  if (found !== undefined) report(context, found);
  else work.keepOnly(name, result.inputs);
  return result;
}

function report({ name, seed, print }: Context, { bytes, reason, meaning }: Found): void {
  print(`${name}: FAILED (seed ${seed})\n${reason}\ninput: ${meaning}`);
  if (CANARIES.includes(name)) return;
  print(`saved in ${keepCrasher(name, bytes)}: commit it with the fix`);
  const isAgent = AGENT_TARGETS.includes(name);
  print(`replay: ./neurovisor ${isAgent ? 'test guest' : `fuzz ${name} --replay`}`);
}

function figures({ executions, ms, inputs, bytes, branches, features }: Progress): string {
  const count = (value: number): string => Math.round(value).toLocaleString('en-US');
  const rate = count(executions / Math.max(ms / 1000, 0.001));
  const size = (bytes / 1024).toFixed(1);
  return (
    `${count(executions)} executions in ${(ms / 1000).toFixed(1)} s (${rate}/s), ` +
    `${count(branches)} branches, ${count(features)} features, ${count(inputs)} inputs (${size} KiB)`
  );
}

/** Writes the smallest inputs that reach all branches reached so far, as far as the limits allow. */
async function minimize(context: Context): Promise<CampaignResult> {
  const { cli, name, seed, print } = context;
  const inputs = known(context)
    .filter(({ length }) => length <= KEPT_INPUT_BYTES_MAX)
    .sort((a, b) => a.length - b.length);
  const result = await campaign(context, {
    name,
    seed,
    jobs: 1,
    timeMs: Infinity,
    runs: 0,
    countsBranchesOnly: true,
    inputs,
    signal: cli.cancelled,
  });
  if (result.found !== undefined) {
    report(context, result.found);
    return result;
  }
  let left = KEPT_BYTES_MAX;
  const kept = [...result.inputs]
    .sort((a, b) => a.length - b.length)
    .filter(({ length }) => {
      left -= length;
      return length > 0 && left >= 0;
    });
  if (kept.length > 0) keepInputs('corpus', name, kept);
  print(`${name}: ${inputs.length} inputs, ${kept.length} kept in ${keptPath('corpus', name)}`);
  return result;
}
