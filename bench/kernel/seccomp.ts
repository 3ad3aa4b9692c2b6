/** Seccomp: compile time of profiles, length of their programs, and the cost of a filter per call. */

import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { POLICY_DIR } from '../../src/host/runtime/jail.ts';
import { compileProfile } from '../../src/machine/jail/seccomp/compile.ts';
import { type Profile, parseProfile } from '../../src/machine/jail/seccomp/profile.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';

const FIXTURE = join(import.meta.dirname, 'fixtures/seccomp-call.c');
const POLICIES = ['qemu-x86_64.json', 'firecracker-x86_64.json', 'firecracker-launch-x86_64.json'];
const THREADS = ['qemu', 'vmm', 'api', 'vcpu', 'launch'];
const CALL_MS_MAX = 60_000;
const NS_PER_US = 1000;

export const seccompBenchmark: Benchmark = {
  names: [
    'seccomp.compile',
    ...THREADS.map((thread) => `seccomp.length/${thread}`),
    'seccomp.install',
    'seccomp.call/number',
    'seccomp.call/argument',
  ],
  summary: 'compiling and installing a seccomp profile, its length, and a system call with and without it',
  withoutRuntime: true,
  async measure(context) {
    const texts = await Promise.all(POLICIES.map((name) => readFile(join(POLICY_DIR, name), 'utf8')));
    const [qemu = ''] = texts;
    return [
      compileTime(context, qemu),
      ...texts.flatMap((text) => lengths(parseProfile(text))),
      ...(await callTimes(context, parseProfile(qemu))),
    ];
  },
};

const none = { accelerator: 'none' } as const;

function compileTime({ rounds }: BenchContext, text: string): Measurement {
  const samples = Array.from({ length: rounds }, () => {
    const startMs = performance.now();
    for (const filter of parseProfile(text).values()) compileProfile(filter, 'x86_64');
    return performance.now() - startMs;
  });
  const note = "QEMU's policy, from JSON to instructions; the first run is the slowest";
  return { name: 'seccomp.compile', unit: 'ms', ...none, samples, baseline: null, note };
}

function lengths(profile: Profile): Measurement[] {
  return [...profile.values()].map((filter) => ({
    ...none,
    name: `seccomp.length/${filter.name}`,
    unit: 'instructions',
    samples: [compileProfile(filter, 'x86_64').instructions],
    baseline: { name: 'entries of the profile', samples: [filter.rules.length] },
  }));
}

async function callTimes(context: BenchContext, profile: Profile): Promise<Measurement[]> {
  const filter = profile.get('qemu');
  if (filter === undefined) throw new Error('the policy of QEMU has no thread "qemu"');
  // The filtered program reads a clock that needs a system call.
  const { program } = compileProfile(filter, 'x86_64');
  const directory = await mkdtemp(join(tmpdir(), 'nv-bench-'));
  try {
    const binary = join(directory, 'seccomp-call');
    await promisify(execFile)('gcc', ['-O2', '-static', '-o', binary, FIXTURE]);
    const runs: number[][] = [];
    for (let round = 1; round <= context.rounds; round += 1) {
      context.say(`system calls, round ${round} of ${context.rounds}`);
      const run = promisify(execFile)(binary, [], { timeout: CALL_MS_MAX, signal: context.signal });
      run.child.stdin?.end(program);
      runs.push((await run).stdout.trim().split(' ').map(Number));
    }
    const column = (index: number): number[] => runs.map((run) => run[index] ?? Number.NaN);
    const calls = (['number', 'argument'] as const).map((by, index) => ({
      ...none,
      name: `seccomp.call/${by}`,
      unit: 'ns' as const,
      samples: column(2 * index + 1),
      baseline: { name: 'the same call without a filter', samples: column(2 * index) },
    }));
    const install = column(4).map((ns) => ns / NS_PER_US);
    const note = 'QEMU’s policy, by the call that each VMM’s process makes once';
    return [{ ...none, name: 'seccomp.install', unit: 'µs', samples: install, baseline: null, note }, ...calls];
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
