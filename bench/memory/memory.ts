/** The memory of an idle sandbox: at its start, and after it has touched more. */
import { CleanupStack } from '../../src/base/cleanup.ts';
import { ignore } from '../../src/base/ignore.ts';
import { MIB } from '../../src/base/units.ts';
import { DEFAULT_TEMPLATE } from '../../src/sandbox/start/template.ts';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark } from '../benchmark.ts';
import { compare, rowsOf } from '../compare.ts';
import { settledAvailableMib, vmmMemoryMib } from './process-memory.ts';

/** Concurrent sandboxes; the figure is the total divided by this. */
const SANDBOXES = 8;
const TOUCHED_MIB = 64;
const STATES = ['birth', 'touched'] as const;

export const memoryBenchmark: Benchmark = {
  names: STATES.flatMap((state) => [`sandbox.memory/${state}`, `sandbox.memory/${state}-vmm`]),
  summary: `host memory of an idle sandbox (of ${SANDBOXES}), at birth and with ${TOUCHED_MIB} MiB touched`,
  async measure(context) {
    const { runtime, signal } = context;
    await runtime.templates.prepare(DEFAULT_TEMPLATE);
    const attempts = new Attempts(signal);
    // The first round fills the page cache and warms up the JIT.
    const { own } = await compare(context, 'memory', { own: () => attempts.run(() => measureSandboxes(context)) });
    const row = rowsOf('MiB', runtime.driver.accelerator);
    const failures = attempts.failures();
    const ofHost = attempts.failures('of the host: MemAvailable, once it stays');
    const byAvailable = (state: (typeof STATES)[number]) => ['by MemAvailable', own(state)] as const;
    return [
      row('sandbox.memory/birth', own('birth'), null, ofHost),
      row('sandbox.memory/birth-vmm', own('birth-vmm'), byAvailable('birth'), failures),
      row('sandbox.memory/touched', own('touched'), ['at birth', own('birth')], failures),
      row('sandbox.memory/touched-vmm', own('touched-vmm'), byAvailable('touched'), failures),
    ];
  },
};

/** MiB per sandbox: the decrease of the host's available memory, and the kernel's accounting of its VMM and RAM. */
async function measureSandboxes({ runtime, signal }: BenchContext) {
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
  return {
    birth: atBirth.host,
    'birth-vmm': atBirth.vmm,
    touched: afterTouching.host,
    'touched-vmm': afterTouching.vmm,
  };
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
