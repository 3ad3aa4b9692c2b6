/** The cost of counting syscalls of VMMs: for a counted process, and for any other. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describeError } from '../../src/base/errors.ts';
import { resolveHome } from '../../src/base/home.ts';
import { bpfDir } from '../../src/host/probes/latency.ts';
import { ObserveError } from '../../src/machine/observe/errors.ts';
import { openSyscallCounts, type SyscallCounts } from '../../src/machine/observe/syscalls.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';

const run = promisify(execFile);
const FIXTURE = join(import.meta.dirname, 'fixtures/seccomp-call.c');
/** struct sock_filter: return SECCOMP_RET_ALLOW. */
const ALLOW_ALL = Buffer.from('060000000000ff7f', 'hex');
const CALL_MS_MAX = 60_000;
const NAMES = ['syscalls.counted', 'syscalls.other'] as const;

export const syscallsBenchmark: Benchmark = {
  names: NAMES,
  summary: 'a system call while those of VMMs are counted (root)',
  async measure(context) {
    const directory = await mkdtemp(join(tmpdir(), 'nv-bench-'));
    try {
      const binary = join(directory, 'call');
      await run('gcc', ['-O2', '-static', '-o', binary, FIXTURE]);
      return await measure(context, binary);
    } catch (error) {
      if (!(error instanceof ObserveError)) throw error;
      return NAMES.map((name) => measurement(name, [], [], describeError(error)));
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  },
};

async function measure(context: BenchContext, binary: string): Promise<Measurement[]> {
  const dir = bpfDir(resolveHome(context.config.home));
  const [without, counted, other]: number[][] = [[], [], []];
  for (let round = 1; round <= context.rounds; round += 1) {
    context.say(`system calls, round ${round} of ${context.rounds}`);
    without?.push(await callTime(context, binary));
    using counts = await openSyscallCounts({ dir });
    counted?.push(await callTime(context, binary, counts));
    other?.push(await callTime(context, binary));
  }
  return NAMES.map((name, index) => measurement(name, [counted, other][index] ?? [], without ?? []));
}

/** Nanoseconds per call. */
async function callTime({ signal }: BenchContext, binary: string, counts?: SyscallCounts): Promise<number> {
  const running = run(binary, [], { timeout: CALL_MS_MAX, signal });
  const { child } = running;
  // The program waits for its filter.
  counts?.watch(child.pid ?? 0);
  child.stdin?.end(ALLOW_ALL);
  const [first = ''] = (await running).stdout.split(' ');
  return Number(first);
}

function measurement(name: string, samples: readonly number[], without: readonly number[], note?: string): Measurement {
  const failed = samples.length === 0 ? 1 : 0;
  const baseline = failed === 1 ? null : { name: 'the same without counting', samples: without };
  return { name, unit: 'ns', accelerator: 'none', samples, baseline, failed, note };
}
