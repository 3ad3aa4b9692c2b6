/** The time to grow and shrink a guest's memory, and to boot with a balloon. */
import type { SandboxOptions } from '../../src/sandbox/contract/spec.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark } from '../benchmark.ts';
import { compare, rowsOf } from '../compare.ts';
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
    const [ms, mib] = [rowsOf('ms', accelerator), rowsOf('MiB', accelerator)];
    const { more, less, failures } = await changes(context);
    const plain = await boots(context, {});
    const ballooned = await boots(context, { memoryMaxMib: MAX_MIB });
    const note = 'of the host, for a sandbox that has just booted';
    return [
      ms('grow.more', more('ms'), null, failures),
      ms('grow.less', less('ms'), null),
      ms('grow.boot', ballooned('readyMs'), ['without a maximum', plain('readyMs')]),
      mib('grow.memory', ballooned('memoryMib'), ['without a maximum', plain('memoryMib')], { note }),
    ];
  },
};

/** Measured until the request is answered, when the guest's programs may use the memory. */
async function changes(context: BenchContext) {
  const { signal } = context;
  await using opened = await openBenchControl(context);
  const { control } = opened;
  const { id } = await control.create({ ...SIZE, memoryMaxMib: MAX_MIB, boot: true }, signal);
  const attempts = new Attempts(signal);
  const resize = (memoryMib: number) =>
    attempts.run(async () => {
      const began = performance.now();
      await control.update(id, { memoryMib });
      return { ms: performance.now() - began };
    });
  const ways = { more: () => resize(GROWN_MIB), less: () => resize(SIZE.memoryMib) };
  return { ...(await compare(context, 'grow', ways, { warmUp: false })), failures: attempts.failures() };
}

async function boots(context: BenchContext, options: SandboxOptions) {
  const { runtime, signal } = context;
  const own = async () => {
    const sandbox = await runtime.startVm({ ...SIZE, ...options }, signal);
    const readyMs = sandbox.timings?.totalMs ?? Number.NaN;
    const pid = sandbox.vm?.pid;
    const memoryMib = pid == null ? [] : await vmmMemoryMib(pid);
    await sandbox.stop();
    return { readyMs, memoryMib };
  };
  return (await compare(context, 'boot', { own }, { warmUp: false })).own;
}
