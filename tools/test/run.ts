/** `neurovisor test`: runs layers in order and ends with the closing line. */
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { describeError } from '../../src/base/errors.ts';
import { resolveHome } from '../../src/base/home.ts';
import type { Cli } from '../../src/cli/cli.ts';
import { openRuntime } from '../../src/cli/commands/open-runtime.ts';
import { UsageError } from '../../src/cli/failure.ts';
import { plainView } from '../../src/cli/output/progress.ts';
import { ensureTestPackages } from '../../src/host/runtime/setup.ts';
import { requiredCapabilities } from '../../test/support/capabilities.ts';
import { FULL_VARIABLE } from '../../test/support/full-run.ts';
import { runSeed } from '../../test/support/run-seed.ts';
import { labeled, type Shell } from './child.ts';
import { delayed } from './delay-plan.ts';
import { runUnit, sideBySide } from './lanes.ts';
import type { Layer, LayerContext } from './layer.ts';
import { LAYERS, layerOf } from './layers.ts';
import { type LayerResult, RESULTS_VARIABLE, readResults, writeResults } from './results.ts';
import { endOf, sum } from './summary.ts';
import { doubledOf, readTimes, TIMES_VARIABLE, withTimes, writeTimes } from './times.ts';
import { appendUnsteady, LIST_VARIABLE } from './unsteady-list.ts';
import { type FileTime, UnsteadyBudget } from './verdict.ts';

export interface Plan {
  readonly layers: readonly Layer[];
  readonly filters: readonly string[];
}

/** Stands for every layer. */
const ALL = 'all';

/**
 * @param words layers, `all`, and paths that limit them to some files; if empty, the layers that each checkout must
 * pass
 */
export function planOf(words: readonly string[]): Plan {
  const isPath = (word: string): boolean => /[/.]/.test(word);
  const filters = words.filter(isPath).map((word) => word.replace(/^\.\//, ''));
  const named = words.filter((word) => !isPath(word));
  const unknown = named.find((name) => name !== ALL && !LAYERS.some((layer) => layer.name === name));
  if (unknown !== undefined) {
    const names = [ALL, ...LAYERS.map(({ name }) => name)].join(', ');
    throw new UsageError(`no layer "${unknown}"`, `layers: ${names}; or a path such as src/egress/net`);
  }
  if (named.includes(ALL)) return { layers: LAYERS, filters };
  const wanted = new Set([...named, ...filters.map(layerOf)]);
  const layers = LAYERS.filter(({ name, isExtra = false }) => (wanted.size === 0 ? !isExtra : wanted.has(name)));
  return { layers, filters };
}

export interface TestFlags {
  /** Includes tests that take too long for each run. */
  readonly full?: boolean;
  /** The longest delay of file operations, timers, connections and child processes, ms. */
  readonly delays?: number;
}

export async function runTests(
  cli: Cli,
  words: readonly string[],
  { full: isFull = false, delays }: TestFlags,
): Promise<number> {
  const { layers, filters } = planOf(isFull && words.length === 0 ? [ALL] : words);
  checkRequired(cli.env);
  const seed = runSeed();
  const { cacheDir } = resolveHome(cli.config.home);
  const timesPath = join(cacheDir, 'test-times.json');
  const env = { ...cli.env, [TIMES_VARIABLE]: timesPath, ...(isFull ? { [FULL_VARIABLE]: 'full' } : {}) };
  const shell: Shell = {
    signal: cli.cancelled,
    env: delays === undefined ? env : delayed({ ...env, NEUROVISOR_SEED: `${seed}` }, delays),
    isTerminal: cli.stdout.isTTY,
    write: (text) => void cli.stdout.write(text),
  };
  const times = await readTimes(timesPath);
  const context: LayerContext = { shell, seed, cacheDir, isFull, filters, times, budget: new UnsteadyBudget() };
  shell.write(`seed ${seed} (repeat with NEUROVISOR_SEED=${seed})\n`);
  const resultsPath = cli.env[RESULTS_VARIABLE];
  const before = await readResults(resultsPath);
  const ranBefore = new Set(before.map(({ layer }) => layer));
  const left = hasRedGate(before) ? [] : layers.filter(({ name }) => !ranBefore.has(name));
  const ran = await runLayers(left, context, (signal) => prepare(cli, shell, signal));
  const results = [...before, ...ran];
  const outcome = sum(ran.map((result) => result.outcome));
  const files = delays === undefined ? timedFiles(ran) : [];
  const doubled = doubledOf(times, files);
  await writeTimes(timesPath, withTimes(times, files));
  const listPath = cli.env[LIST_VARIABLE] || join(cacheDir, 'unsteady.jsonl');
  await appendUnsteady(listPath, seed, outcome.unsteady, new Date());
  // The part with all layers is the last.
  const isContinued = Boolean(resultsPath) && layers.length < LAYERS.length;
  if (resultsPath) await writeResults(resultsPath, results);
  shell.write(endOf({ layers: results, doubled, seed, listPath, isContinued }));
  const whole = sum(results.map((result) => result.outcome));
  const isEmpty = whole.passed + whole.failed + whole.skipped === 0;
  if (isEmpty) throw new UsageError(`no test matches ${words.join(' ')}`);
  return whole.failed === 0 ? 0 : 1;
}

/** The delayed run repeats files of another layer, whose durations are the ones to keep. */
function timedFiles(results: readonly LayerResult[]): readonly FileTime[] {
  const isDelayed = new Set(LAYERS.filter((layer) => layer.isDelayed).map(({ name }) => name));
  return results.flatMap(({ layer, outcome }) => (isDelayed.has(layer) ? [] : outcome.files));
}

function hasRedGate(results: readonly LayerResult[]): boolean {
  const gate = new Set(LAYERS.filter(({ stage }) => stage === 'gate').map(({ name }) => name));
  return results.some(({ layer, outcome }) => gate.has(layer) && outcome.failed > 0);
}

/** @throws UsageError before anything runs */
function checkRequired(env: Cli['env']): void {
  try {
    requiredCapabilities(env);
  } catch (error) {
    throw new UsageError(describeError(error));
  }
}

/**
 * Runs the gate, and the other layers only if it is green. The machine is set up meanwhile; layers that need nothing of
 * it do not wait for that.
 * @param prepareMachine called at most once, as soon as a layer will need the machine; its signal aborts if the gate is
 * red
 */
export async function runLayers(
  layers: readonly Layer[],
  context: LayerContext,
  prepareMachine: (signal: AbortSignal) => Promise<void>,
): Promise<readonly LayerResult[]> {
  const machine = layers.filter(({ stage }) => stage === 'machine');
  const stop = new AbortController();
  const prepared = machine.some(({ needsMachine }) => needsMachine === true)
    ? prepareMachine(stop.signal)
    : Promise.resolve();
  // Awaited below in each case.
  prepared.catch(() => undefined);
  const ofGate = layers.filter(({ stage }) => stage === 'gate');
  const gate = await inOrder(ofGate, context);
  const isRed = gate.some(({ outcome }) => outcome.failed > 0);
  const left = [...ofGate.slice(gate.length), ...(isRed ? machine : [])];
  if (left.length > 0) {
    const names = left.map(({ name }) => name).join(', ');
    context.shell.write(`\nnot run, since the gate is red: ${names}\n`);
  }
  if (isRed) {
    stop.abort();
    await Promise.allSettled([prepared]);
    return gate;
  }
  if (machine.length === 0) return gate;
  return [...gate, ...(await sideBySide(machine, context, prepared))];
}

async function inOrder(layers: readonly Layer[], context: LayerContext): Promise<readonly LayerResult[]> {
  const results: LayerResult[] = [];
  for (const layer of layers) {
    const result = await runUnit({ layer, title: layer.name }, context);
    results.push(result);
    if (result.outcome.failed > 0) break;
  }
  return results;
}

/** Installs the tests' packages, and sets the machine up, while the gate prints its own lines. */
async function prepare(cli: Cli, shell: Shell, gate: AbortSignal): Promise<void> {
  const { log } = cli;
  const signal = AbortSignal.any([cli.cancelled, gate]);
  const lines = labeled(shell, 'setup | ');
  const view = plainView(
    new Writable({
      write: (text: Buffer, _, done) => {
        lines.write(text.toString());
        done();
      },
    }),
  );
  const progress = view.report;
  try {
    await ensureTestPackages({ progress, signal, log });
    // The tests use the engine and its model even if another model server is available.
    const config = { ...cli.config, upstream: 'engine' };
    await using _runtime = await openRuntime(cli, { config, progress, signal });
  } finally {
    view.close();
  }
}
