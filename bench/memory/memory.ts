/** The memory of an idle sandbox: at its start, and after it has touched more. */
import { CleanupStack } from '../../src/base/cleanup.ts';
import { ignore } from '../../src/base/ignore.ts';
import { MIB } from '../../src/base/units.ts';
import { DEFAULT_TEMPLATE } from '../../src/sandbox/start/template.ts';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { settledAvailableMib, vmmMemoryMib } from './process-memory.ts';

/** Concurrent sandboxes; the figure is the total divided by this. */
const SANDBOXES = 8;
const TOUCHED_MIB = 64;
const STATES = ['birth', 'touched'] as const;

/** Per sandbox, MiB; one value per round. */
interface Samples {
  /** The decrease of the host's available memory. */
  readonly host: number[];
  /** The kernel's accounting of its VMM and RAM. */
  readonly vmm: number[];
}

export const memoryBenchmark: Benchmark = {
  names: STATES.flatMap((state) => [`sandbox.memory/${state}`, `sandbox.memory/${state}-vmm`]),
  summary: `host memory of an idle sandbox (of ${SANDBOXES}), at birth and with ${TOUCHED_MIB} MiB touched`,
  async measure(context) {
    const { runtime, rounds, signal, say } = context;
    await runtime.templates.prepare(DEFAULT_TEMPLATE);
    const attempts = new Attempts(signal);
    const birth: Samples = { host: [], vmm: [] };
    const touched: Samples = { host: [], vmm: [] };
    // The first round fills the page cache and warms up the JIT; it is not counted.
    for (let round = 0; round <= rounds; round += 1) {
      say(`memory ${round} of ${rounds}`);
      const into = round === 0 ? null : { birth, touched };
      await attempts.run(() => measureSandboxes(context, into));
    }
    const { accelerator } = runtime.driver;
    const row = (
      name: string,
      samples: readonly number[],
      baseline: Measurement['baseline'],
      note?: string,
    ): Measurement => ({
      name: `sandbox.memory/${name}`,
      unit: 'MiB',
      accelerator,
      samples,
      baseline,
      ...attempts.failures(note),
    });
    return [
      row('birth', birth.host, null, 'of the host: MemAvailable, once it stays'),
      row('birth-vmm', birth.vmm, { name: 'by MemAvailable', samples: birth.host }),
      row('touched', touched.host, { name: 'at birth', samples: birth.host }),
      row('touched-vmm', touched.vmm, { name: 'by MemAvailable', samples: touched.host }),
    ];
  },
};

async function measureSandboxes(
  { runtime, signal }: BenchContext,
  into: Readonly<Record<(typeof STATES)[number], Samples>> | null,
): Promise<void> {
  await using cleanup = new CleanupStack();
  const before = await settledAvailableMib(signal);
  const sandboxes: Supervisor[] = [];
  const { spec, source } = await runtime.templates.prepare(DEFAULT_TEMPLATE);
  for (let n = 0; n < SANDBOXES; n += 1) {
    const sandbox = await runtime.startVm({ warm: spec.warm }, signal, { template: source });
    cleanup.push('sandbox', () => sandbox.stop());
    sandboxes.push(sandbox);
  }
  const atBirth = await costMib(before, sandboxes, signal);
  for (const sandbox of sandboxes) await touch(sandbox, signal);
  const afterTouching = await costMib(before, sandboxes, signal);
  for (const [state, cost] of [
    ['birth', atBirth],
    ['touched', afterTouching],
  ] as const) {
    into?.[state].host.push(cost.host);
    into?.[state].vmm.push(cost.vmm);
  }
}

async function costMib(
  before: number,
  sandboxes: readonly Supervisor[],
  signal: AbortSignal,
): Promise<{ readonly host: number; readonly vmm: number }> {
  const host = (before - (await settledAvailableMib(signal))) / sandboxes.length;
  let all = 0;
  for (const { vm } of sandboxes) {
    if (vm?.pid == null) throw new Error('the VM has no process to measure');
    all += await vmmMemoryMib(vm.pid);
  }
  return { host, vmm: all / sandboxes.length };
}

/** Starts a script that holds memory until the sandbox ends. */
async function touch(sandbox: Supervisor, signal: AbortSignal): Promise<void> {
  const code = `
import sys
held = b'\\x5a' * ${TOUCHED_MIB * MIB}
print(len(held), flush=True)
sys.stdin.read()`;
  const process = await sandbox.guest().python({ script: { code } }, signal);
  process.exit.catch((error: unknown) => ignore(error, 'the script ends with its sandbox'));
  await new Promise<void>((resolve, reject) => {
    process.stdout.once('data', () => resolve());
    process.stdout.once('error', reject);
    process.stdout.once('end', () => reject(new Error('the script ended before it had allocated its memory')));
  });
}
