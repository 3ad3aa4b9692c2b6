/** `neurovisor test`: runs layers in order and ends with the closing line. */
import { join } from 'node:path';
import { describeError } from '../../src/base/errors.ts';
import type { Cli } from '../../src/cli/cli.ts';
import { openRuntime } from '../../src/cli/commands/open-runtime.ts';
import { UsageError } from '../../src/cli/failure.ts';
import { duration } from '../../src/cli/output/table.ts';
import { resolveHome } from '../../src/home.ts';
import { ensureTestPackages } from '../../src/runtime/setup.ts';
import { requiredCapabilities } from '../../test/support/capabilities.ts';
import { FULL_VARIABLE } from '../../test/support/full-run.ts';
import { runSeed } from '../../test/support/run-seed.ts';
import { labeled, type Shell } from './child.ts';
import { LAYERS, type Layer, type LayerContext, layerOf } from './layers.ts';
import { counts, endOf, sum } from './summary.ts';
import { appendUnsteady, LIST_VARIABLE } from './unsteady-list.ts';
import { type Outcome, UnsteadyBudget } from './verdict.ts';

export interface Plan {
  readonly layers: readonly Layer[];
  readonly filters: readonly string[];
}

/** @param words layers, and paths that limit them to some files; none: all layers */
export function planOf(words: readonly string[]): Plan {
  const isPath = (word: string): boolean => /[/.]/.test(word);
  const filters = words.filter(isPath).map((word) => word.replace(/^\.\//, ''));
  const named = words.filter((word) => !isPath(word));
  const unknown = named.find((name) => !LAYERS.some((layer) => layer.name === name));
  if (unknown !== undefined) {
    const names = LAYERS.map(({ name }) => name).join(', ');
    throw new UsageError(`no layer "${unknown}"`, `layers: ${names}; or a path such as src/net`);
  }
  const wanted = new Set([...named, ...filters.map(layerOf)]);
  const layers = LAYERS.filter(({ name }) => wanted.size === 0 || wanted.has(name));
  return { layers, filters };
}

/** @param isFull with what takes too long for each run */
export async function runTests(
  cli: Cli,
  words: readonly string[],
  isFull: boolean,
): Promise<number> {
  const { layers, filters } = planOf(words);
  checkRequired(cli.env);
  const seed = runSeed();
  const shell: Shell = {
    signal: cli.cancelled,
    env: isFull ? { ...cli.env, [FULL_VARIABLE]: 'full' } : cli.env,
    isTerminal: cli.stdout.isTTY,
    write: (text) => void cli.stdout.write(text),
  };
  const context: LayerContext = { shell, seed, filters, budget: new UnsteadyBudget() };
  shell.write(`seed ${seed} (repeat with NEUROVISOR_SEED=${seed})\n`);
  const outcomes = await runLayers(layers, context, (machine) => prepare(cli, machine));
  const outcome = sum(outcomes);
  const listPath =
    cli.env[LIST_VARIABLE] || join(resolveHome(cli.config.home).cacheDir, 'unsteady.jsonl');
  await appendUnsteady(listPath, seed, outcome.unsteady, new Date());
  shell.write(endOf(outcome, seed, listPath));
  const isEmpty = outcome.passed + outcome.failed + outcome.skipped === 0;
  if (isEmpty) throw new UsageError(`no test matches ${words.join(' ')}`);
  return outcome.failed === 0 ? 0 : 1;
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
 * Runs the gate, and the other layers only if it is green.
 * @param prepareMachine called before the first layer that needs the machine
 */
export async function runLayers(
  layers: readonly Layer[],
  context: LayerContext,
  prepareMachine: (layers: readonly Layer[]) => Promise<void>,
): Promise<readonly Outcome[]> {
  const ofGate = layers.filter(({ stage }) => stage === 'gate');
  const gate = await inOrder(ofGate, context);
  const isRed = gate.some(({ failed }) => failed > 0);
  const machine = layers.filter(({ stage }) => stage === 'machine');
  const left = [...ofGate.slice(gate.length), ...(isRed ? machine : [])];
  if (left.length > 0) {
    const names = left.map(({ name }) => name).join(', ');
    context.shell.write(`\nnot run, since the gate is red: ${names}\n`);
  }
  if (isRed || machine.length === 0) return gate;
  await prepareMachine(machine);
  return [...gate, ...(await sideBySide(machine, context))];
}

/** Each VM is emulated by one thread, and components wait for timers and small programs most of the time. */
const AT_ONCE = 2;
/** The longest first, so that the others fill the time beside them. */
const BY_LENGTH: readonly string[] = ['component', 'nested', 'vm', 'e2e'];

async function sideBySide(
  layers: readonly Layer[],
  context: LayerContext,
): Promise<readonly Outcome[]> {
  if (layers.length === 1) return await inOrder(layers, context);
  const rank = ({ name }: Layer): number => BY_LENGTH.indexOf(name);
  const left = layers.toSorted((a, b) => rank(a) - rank(b));
  const worker = async (): Promise<readonly Outcome[]> => {
    const outcomes: Outcome[] = [];
    for (let layer = left.shift(); layer !== undefined; layer = left.shift())
      outcomes.push(await labeledRun(layer, context));
    return outcomes;
  };
  return (await Promise.all(Array.from({ length: AT_ONCE }, worker))).flat();
}

async function labeledRun(layer: Layer, context: LayerContext): Promise<Outcome> {
  const shell = labeled(context.shell, `${layer.name} | `);
  try {
    return await run(layer, { ...context, shell });
  } finally {
    shell.flush();
  }
}

async function inOrder(
  layers: readonly Layer[],
  context: LayerContext,
): Promise<readonly Outcome[]> {
  const outcomes: Outcome[] = [];
  for (const layer of layers) {
    const outcome = await run(layer, context);
    outcomes.push(outcome);
    if (layer.stage === 'gate' && outcome.failed > 0) break;
  }
  return outcomes;
}

async function run(layer: Layer, context: LayerContext): Promise<Outcome> {
  const { shell } = context;
  shell.signal.throwIfAborted();
  const began = performance.now();
  shell.write(`\n== ${layer.name}\n`);
  const outcome = await layer.run(context);
  const took = duration(performance.now() - began);
  shell.write(`== ${layer.name}: ${counts(outcome)} in ${took}\n`);
  return outcome;
}

async function prepare(cli: Cli, layers: readonly Layer[]): Promise<void> {
  if (layers.some(({ needsPackages }) => needsPackages === true)) {
    const { progress, cancelled: signal, log } = cli;
    await ensureTestPackages({ progress: progress.report, signal, log });
  }
  if (layers.some(({ needsSetup }) => needsSetup === true)) await setUp(cli);
  else cli.progress.close();
}

async function setUp(cli: Cli): Promise<void> {
  // The tests use the engine and its model even where another model server is available.
  await using _runtime = await openRuntime(cli, { config: { ...cli.config, upstream: 'engine' } });
}
