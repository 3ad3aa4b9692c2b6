/**
 * The layers of the tests, cheapest first. The gate needs no machine; the rest boots kernels and VMs.
 *
 *     check ► unit ► guest ── all green ──► component, vm, e2e, nested
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { SOURCE_DIR } from '../../src/runtime/setup.ts';
import { runProgram, type Shell } from './child.ts';
import { sum } from './summary.ts';
import { type Outcome, type UnsteadyBudget, verdictOf } from './verdict.ts';
import { vitestIn } from './vitest.ts';

export interface LayerContext {
  readonly shell: Shell;
  readonly seed: number;
  /** Parts of paths that Vitest's files must contain; empty: all files. */
  readonly filters: readonly string[];
  readonly budget: UnsteadyBudget;
}

export interface Layer {
  readonly name: string;
  readonly stage: 'gate' | 'machine';
  /** VMs are booted: the machine must be set up first. */
  readonly needsSetup?: boolean;
  /** Other programs take part. */
  readonly needsPackages?: boolean;
  run(context: LayerContext): Promise<Outcome>;
}

/** Vitest leaves one idle; these tests wait for nothing. */
const ALL_PROCESSORS = ['--maxWorkers=100%'];

/** Failures here are final: these tests depend on nothing but the code and the seed. */
const pure = (projects: readonly string[]) => (context: LayerContext) =>
  vitestLayer(projects, { ...context, budget: null }, ALL_PROCESSORS);

/** Each file has a host of its own, so that the death of one costs only its file. */
async function nested(context: LayerContext): Promise<Outcome> {
  const outcomes: Outcome[] = [];
  for (const file of nestedFiles(context.filters)) {
    const ofFile = { ...context, filters: [file], budget: null };
    const run = (): Promise<Outcome> => vitestLayer(['nested'], ofFile);
    outcomes.push(await onceMoreIfHostDied(context.shell, run));
  }
  return sum(outcomes);
}

const NESTED_DIR = 'test/nested';

/** @param filters parts of paths; empty: all files */
function nestedFiles(filters: readonly string[]): readonly string[] {
  return readdirSync(join(SOURCE_DIR, NESTED_DIR))
    .map((name) => join(NESTED_DIR, name))
    .filter((path) => filters.length === 0 || filters.some((part) => path.includes(part)));
}

const real = (projects: readonly string[]) => (context: LayerContext) =>
  vitestLayer(projects, context);

export const LAYERS: readonly Layer[] = [
  { name: 'check', stage: 'gate', run: check },
  { name: 'unit', stage: 'gate', run: pure(['tidy', 'unit', 'prop']) },
  { name: 'guest', stage: 'gate', run: guestTests },
  { name: 'component', stage: 'machine', needsPackages: true, run: real(['component']) },
  { name: 'vm', stage: 'machine', needsPackages: true, needsSetup: true, run: real(['vm']) },
  { name: 'e2e', stage: 'machine', needsSetup: true, run: real(['e2e']) },
  { name: 'nested', stage: 'machine', needsPackages: true, needsSetup: true, run: nested },
];

/** The layer whose files lie at a path. */
export function layerOf(path: string): string {
  const match = /^test\/(component|vm|e2e|nested)(?:\/|$)/.exec(path);
  return match?.[1] ?? 'unit';
}

function vitestLayer(
  projects: readonly string[],
  context: Omit<LayerContext, 'budget'> & { readonly budget: UnsteadyBudget | null },
  args: readonly string[] = [],
): Promise<Outcome> {
  const { shell, seed, filters, budget } = context;
  const onRerun = (file: string, round: number): void =>
    shell.write(`\n-- rerun ${round} of a failed file: ${file}\n`);
  return verdictOf(vitestIn(shell, seed, { args }), { projects, filters }, { budget, onRerun });
}

/**
 * An emulated host can die of faults of its own. Then its file runs once more, and says so; any other failure is
 * final.
 */
export async function onceMoreIfHostDied(
  shell: Pick<Shell, 'write'>,
  run: () => Promise<Outcome>,
): Promise<Outcome> {
  const first = await run();
  const why = first.failures
    .flatMap(({ message }) => message.split('\n'))
    .find((line) => line.includes('NestedHostError'));
  if (why === undefined) return first;
  shell.write(`\n-- the nested host died, so its file runs once more: ${why.trim()}\n`);
  return await run();
}

const NOTHING: Outcome = {
  passed: 0,
  failed: 0,
  skipped: 0,
  failures: [],
  unsteady: [],
  skips: [],
  files: [],
};

async function check({ shell }: LayerContext): Promise<Outcome> {
  const failures = [];
  const tools = [['biome', 'ci', '.'], ['tsc']];
  for (const [tool = '', ...args] of tools) {
    const argv = [join(SOURCE_DIR, 'node_modules/.bin', tool), ...args];
    const status = await runProgram(shell, argv);
    if (status === 0) continue;
    failures.push({ file: tool, test: null, message: `ended with status ${status}` });
  }
  const failed = failures.length;
  return { ...NOTHING, passed: tools.length - failed, failed, failures };
}

/**
 * The guest agent's tests, by Python's unittest. The agent sets up the machine that it runs on: as root,
 * its tests get a network and a host name of their own.
 */
async function guestTests({ shell }: LayerContext): Promise<Outcome> {
  let output = '';
  const alone = process.geteuid?.() === 0 ? ['unshare', '--net', '--uts', '--'] : [];
  const tests = join(SOURCE_DIR, 'guest/tests');
  const argv = [...alone, 'python3', '-m', 'unittest', 'discover', '-v', '-s', tests];
  const status = await runProgram(shell, argv, {
    onOutput: (text) => {
      output += text;
    },
  });
  return guestOutcome(output, status);
}

/** Reads what `unittest -v` printed. */
export function guestOutcome(output: string, status: number): Outcome {
  const ran = Number(/^Ran (\d+) tests?/m.exec(output)?.[1] ?? 0);
  const failures = [...output.matchAll(/^(?:FAIL|ERROR): (.+)$/gm)].map(([, test = '']) => ({
    file: 'guest/tests',
    test,
    message: 'see the output of the guest layer',
  }));
  const skips = [...output.matchAll(/^(.*?)(?: \.\.\.)? skipped ['"](.*)['"]$/gm)].map(
    ([, test = '', reason = '']) => ({ file: 'guest/tests', test, reason }),
  );
  if (failures.length === 0 && (status !== 0 || ran === 0)) {
    failures.push({ file: 'guest/tests', test: '', message: `unittest ended with ${status}` });
  }
  const failed = failures.length;
  const skipped = skips.length;
  return {
    ...NOTHING,
    passed: Math.max(0, ran - failed - skipped),
    failed,
    failures,
    skipped,
    skips,
  };
}
