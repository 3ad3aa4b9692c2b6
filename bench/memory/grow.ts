/** The time to grow and shrink a guest's memory, and to boot with a balloon. */
import type { SandboxOptions } from '../../src/sandbox/contract/spec.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark } from '../benchmark.ts';
import { openBenchControl } from '../control.ts';
import { vmmMemoryMib } from './process-memory.ts';

const SIZE = { memoryMib: 256, diskMib: 64, warm: ['json'] } as const;
const MAX_MIB = 1024;
/** The first growth step under memory pressure. */
const GROWN_MIB = 384;

export const growBenchmark: Benchmark = {
  names: ['grow.more', 'grow.less', 'grow.boot', 'grow.memory'],
  summary: `from ${SIZE.memoryMib} to ${GROWN_MIB} MiB until the guest has it, and back; a boot with at most ${MAX_MIB}`,
  async measure(context) {
    const { accelerator } = context.runtime.driver;
    const { more, less, failures } = await changes(context);
    const plain = await boots(context, {});
    const ballooned = await boots(context, { memoryMaxMib: MAX_MIB });
    const both = { name: 'without a maximum', samples: plain.readyMs };
    const memory = { name: 'without a maximum', samples: plain.memoryMib };
    return [
      { name: 'grow.more', unit: 'ms', accelerator, samples: more, baseline: null, ...failures },
      { name: 'grow.less', unit: 'ms', accelerator, samples: less, baseline: null },
      { name: 'grow.boot', unit: 'ms', accelerator, samples: ballooned.readyMs, baseline: both },
      {
        name: 'grow.memory',
        unit: 'MiB',
        accelerator,
        samples: ballooned.memoryMib,
        baseline: memory,
        note: 'of the host, for a sandbox that has just booted',
      },
    ];
  },
};

/** Measured until the request is answered, when the guest's programs may use the memory. */
async function changes(context: BenchContext) {
  const { rounds, signal, say } = context;
  await using opened = await openBenchControl(context);
  const { control } = opened;
  const { id } = await control.create({ ...SIZE, memoryMaxMib: MAX_MIB, boot: true }, signal);
  const attempts = new Attempts(signal);
  const [more, less]: [number[], number[]] = [[], []];
  for (let round = 1; round <= rounds; round += 1) {
    say(`grow ${round} of ${rounds}`);
    for (const [memoryMib, samples] of [
      [GROWN_MIB, more],
      [SIZE.memoryMib, less],
    ] as const) {
      await attempts.run(async () => {
        const began = performance.now();
        await control.update(id, { memoryMib });
        samples.push(performance.now() - began);
      });
    }
  }
  return { more, less, failures: attempts.failures() };
}

async function boots({ runtime, rounds, signal, say }: BenchContext, options: SandboxOptions) {
  const [readyMs, memoryMib]: [number[], number[]] = [[], []];
  for (let round = 1; round <= rounds; round += 1) {
    say(`boot ${round} of ${rounds}`);
    const sandbox = await runtime.startVm({ ...SIZE, ...options }, signal);
    readyMs.push(sandbox.timings?.totalMs ?? Number.NaN);
    const pid = sandbox.vm?.pid;
    if (pid != null) memoryMib.push(await vmmMemoryMib(pid));
    await sandbox.stop();
  }
  return { readyMs, memoryMib };
}
