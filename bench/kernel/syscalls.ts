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
import { compare, rowsOf } from '../compare.ts';

const run = promisify(execFile);
const FIXTURE = join(import.meta.dirname, 'fixtures/seccomp-call.c');
/** struct sock_filter: return SECCOMP_RET_ALLOW. */
const ALLOW_ALL = Buffer.from('060000000000ff7f', 'hex');
const CALL_MS_MAX = 60_000;
const row = rowsOf('ns', 'none');
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
      return NAMES.map((name) => row(name, [], null, { failed: 1, note: describeError(error) }));
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  },
};

async function measure(context: BenchContext, binary: string): Promise<Measurement[]> {
  const dir = bpfDir(resolveHome(context.config.home));
  const ways = {
    without: async () => ({ ns: await callTime(context, binary) }),
    with: async () => {
      using counts = await openSyscallCounts({ dir });
      return { counted: await callTime(context, binary, counts), other: await callTime(context, binary) };
    },
  };
  const measured = await compare(context, 'system calls, round', ways, { warmUp: false });
  const baseline = ['the same without counting', measured.without('ns')] as const;
  return [
    row('syscalls.counted', measured.with('counted'), baseline),
    row('syscalls.other', measured.with('other'), baseline),
  ];
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
