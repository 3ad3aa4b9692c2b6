/**
 * The layers of the tests, cheapest first. The gate needs no machine; the rest needs other programs, kernels and VMs.
 *
 *     check ► unit ► guest ── all green ──► inprocess, component, smoke ┆ delays, proofs, clients, vm, e2e, nested
 *     └────────────────── ./neurovisor test ───────────────────────────┘
 */
import { globSync } from 'node:fs';
import { join } from 'node:path';
import { PACKAGE_DIR } from '../../src/base/package-dir.ts';
import { runProgram } from './child.ts';
import { DELAYS_MS_DEFAULT, delayed } from './delay-plan.ts';
import { type Layer, type LayerContext, NOTHING, vitestLayer } from './layer.ts';
import type { Outcome } from './verdict.ts';

/** Vitest leaves one idle; these tests wait for nothing. */
const ALL_PROCESSORS = ['--maxWorkers=100%'];

/** Failures here are final: these tests depend only on the code and the seed. */
const pure = (projects: readonly string[]) => (context: LayerContext) =>
  vitestLayer(projects, { ...context, budget: null }, ALL_PROCESSORS);

const real = (project: string) => (context: LayerContext) => vitestLayer([project], context);

/** These wait for timers and small programs most of the time. */
const wide = (project: string) => (context: LayerContext) => vitestLayer([project], context, ALL_PROCESSORS);

function filesOf(layer: string): () => readonly string[] {
  return () => globSync(`test/${layer}/**/*.test.ts`, { cwd: PACKAGE_DIR }).toSorted();
}

const EXTRA = { stage: 'machine', isExtra: true } as const;

export const LAYERS: readonly Layer[] = [
  { name: 'check', stage: 'gate', run: check },
  { name: 'unit', stage: 'gate', run: pure(['tidy', 'unit', 'prop']) },
  { name: 'guest', stage: 'gate', run: guestTests },
  { name: 'inprocess', stage: 'machine', isWide: true, run: wide('inprocess') },
  { name: 'component', stage: 'machine', needsMachine: true, isWide: true, run: wide('component') },
  { name: 'smoke', stage: 'machine', needsMachine: true, run: real('smoke') },
  { ...EXTRA, name: 'delays', isWide: true, isDelayed: true, run: withDelays },
  { ...EXTRA, name: 'proofs', needsMachine: true, isWide: true, run: wide('proofs') },
  { ...EXTRA, name: 'clients', needsMachine: true, isWide: true, run: wide('clients') },
  { ...EXTRA, name: 'vm', needsMachine: true, run: real('vm'), files: filesOf('vm') },
  { ...EXTRA, name: 'e2e', needsMachine: true, run: real('e2e'), files: filesOf('e2e') },
  { ...EXTRA, name: 'nested', needsMachine: true, run: nested },
];

/** Files in which the order of file operations, timers and connections matters most, and that are short. */
const DELAYED_FILES = [
  'test/inprocess/audit',
  'test/inprocess/store.test.ts',
  'test/inprocess/control-plane-aborts',
  'test/inprocess/bridge-queue',
  'test/inprocess/api-sessions',
];

/** The same tests, with everything late that may be late. A failure is final: it has the seed that repeats it. */
function withDelays(context: LayerContext): Promise<Outcome> {
  const shell = { ...context.shell, env: delayed(context.shell.env, DELAYS_MS_DEFAULT) };
  const { filters } = context;
  const late = { ...context, shell, budget: null, filters: filters.length > 0 ? filters : DELAYED_FILES };
  return vitestLayer(['inprocess'], late, ALL_PROCESSORS);
}

/** Loaded late: it needs Vitest, which a fresh checkout lacks while it shows the help. */
async function nested(context: LayerContext): Promise<Outcome> {
  const { nestedTests } = await import('./nested-layer.ts');
  return await nestedTests(context);
}

/** The layer of the files at a path. */
export function layerOf(path: string): string {
  const match = /^test\/(inprocess|component|proofs|clients|smoke|vm|e2e|nested)(?:\/|$)/.exec(path);
  return match?.[1] ?? 'unit';
}

async function check({ shell }: LayerContext): Promise<Outcome> {
  const failures = [];
  const tools = [['biome', 'ci', '.'], ['tsc']];
  for (const [tool = '', ...args] of tools) {
    const argv = [join(PACKAGE_DIR, 'node_modules/.bin', tool), ...args];
    const status = await runProgram(shell, argv);
    if (status === 0) continue;
    failures.push({ file: tool, test: null, message: `ended with status ${status}` });
  }
  const failed = failures.length;
  return { ...NOTHING, passed: tools.length - failed, failed, failures };
}

/**
 * The guest agent's tests, by Python's unittest. The agent sets up the machine that it runs on: as root, its tests get
 * their own network and host name.
 */
async function guestTests({ shell }: LayerContext): Promise<Outcome> {
  let output = '';
  const alone = process.geteuid?.() === 0 ? ['unshare', '--net', '--uts', '--'] : [];
  const tests = join(PACKAGE_DIR, 'guest/tests');
  const argv = [...alone, 'python3', '-m', 'unittest', 'discover', '-v', '-s', tests];
  const status = await runProgram(shell, argv, {
    onOutput: (text) => {
      output += text;
    },
  });
  return guestOutcome(output, status);
}

/** Parses the output of `unittest -v`. */
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
  return { ...NOTHING, passed: Math.max(0, ran - failed - skipped), failed, failures, skipped, skips };
}
