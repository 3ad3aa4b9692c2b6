/** Memory of many sandboxes side by side: each one's own, and its share of what they have in common. */
import { CleanupStack } from '../../src/base/cleanup.ts';
import { MIB } from '../../src/base/units.ts';
import { anonymousBytes } from '../../src/host/probes/host-memory.ts';
import type { Runtime } from '../../src/host/runtime/runtime.ts';
import { DEFAULT_TEMPLATE } from '../../src/sandbox/start/template.ts';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark } from '../benchmark.ts';
import { rowsOf } from '../compare.ts';
import { attachCannedModel, LANGCHAIN } from '../langchain-script.ts';
import { firstOutputMs, PRINT_ONE } from '../output.ts';
import { openOwnRuntime } from '../own-runtime.ts';

const COUNTS = [1, 8, 64] as const;
const STATES = ['born', 'print', 'langchain'] as const;
type Samples = Map<string, number[]>;

const nameOf = (count: number, state: string): string => `sandbox.many/${count}-${state}`;

export const manyBenchmark: Benchmark = {
  names: COUNTS.flatMap((count) => STATES.map((state) => nameOf(count, state))),
  summary:
    'memory of each of 1, 8 and 64 sandboxes, its part of shared memory included: born, after print and after a LangChain call; baseline: without shared memory',
  async measure(context) {
    const { rounds, signal, say } = context;
    const attempts = new Attempts(signal);
    const [shared, copied]: [Samples, Samples] = [new Map(), new Map()];
    const accelerator = context.runtime.driver.accelerator;
    for (let round = 1; round <= rounds; round += 1) {
      for (const [mode, into] of [
        ['share', shared],
        ['copy', copied],
      ] as const) {
        say(`${mode}, ${round} of ${rounds}`);
        await attempts.run(() => measureMode(context, mode, into));
      }
    }
    const row = rowsOf('MiB', accelerator);
    const names = COUNTS.flatMap((count) => STATES.map((state) => nameOf(count, state)));
    return names.filter(context.wants).map((name) => {
      const baseline = ['a copy of the template’s memory each', copied.get(name) ?? []] as const;
      return row(
        name,
        shared.get(name) ?? [],
        baseline,
        attempts.failures('anonymous pages of VMMs, memory files of guests'),
      );
    });
  },
};

async function measureMode(context: BenchContext, memorySharing: 'share' | 'copy', into: Samples): Promise<void> {
  const runtime = await openOwnRuntime(context, {}, { memorySharing });
  try {
    await runtime.templates.prepare(DEFAULT_TEMPLATE);
    for (const count of COUNTS) {
      if (!STATES.some((state) => context.wants(nameOf(count, state)))) continue;
      await measureCount(context, runtime, count, into);
    }
  } finally {
    await runtime.close();
  }
}

async function measureCount(
  { signal, say }: BenchContext,
  runtime: Runtime,
  count: number,
  into: Samples,
): Promise<void> {
  await using cleanup = new CleanupStack();
  const { spec, source } = await runtime.templates.prepare(DEFAULT_TEMPLATE);
  const sandboxes: Supervisor[] = [];
  const note = (state: (typeof STATES)[number]): void => {
    const each = totalBytes(runtime, sandboxes) / count / MIB;
    const name = nameOf(count, state);
    into.set(name, [...(into.get(name) ?? []), each]);
  };
  for (let n = 0; n < count; n += 1) {
    say(`${n + 1} of ${count} sandboxes`);
    const parts = { template: source, attachBridge: attachCannedModel };
    const sandbox = await runtime.startVm({ warm: spec.warm }, signal, parts);
    cleanup.push('sandbox', () => sandbox.stop());
    sandboxes.push(sandbox);
  }
  note('born');
  for (const sandbox of sandboxes) await runIn(sandbox, PRINT_ONE, signal);
  note('print');
  for (const sandbox of sandboxes) await runIn(sandbox, LANGCHAIN, signal);
  note('langchain');
}

/** Programs and libraries, which all processes of the host share, are not counted. */
function totalBytes({ ram }: Runtime, sandboxes: readonly Supervisor[]): number {
  const shared = ram.bytes;
  return sandboxes.reduce((sum, { vm, ramBytes }) => {
    const own = anonymousBytes(vm?.pid ?? 0);
    if (own === null) throw new Error('the VM has no process to measure');
    return sum + own + ramBytes;
  }, shared);
}

async function runIn(
  sandbox: Supervisor,
  { code, output }: { readonly code: string; readonly output: string },
  signal: AbortSignal,
): Promise<void> {
  const begin = () => sandbox.guest().python({ script: { code }, stdin: false }, signal);
  await firstOutputMs(begin, output);
}
