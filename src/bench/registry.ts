/** Every benchmark that `neurovisor bench` knows. */
import type { Benchmark } from './benchmark.ts';
import { bootBenchmark } from './boot.ts';
import { bridgeBenchmark } from './bridge.ts';
import { channelBenchmark, channelMemoryBenchmark } from './channel.ts';
import { cloneBenchmark } from './clone.ts';
import { forkBenchmark } from './fork.ts';
import { growBenchmark } from './grow.ts';
import { ipcBenchmark } from './ipc.ts';
import { langchainBenchmark } from './langchain.ts';
import { memoryBenchmark } from './memory.ts';
import { networkBenchmark } from './network.ts';
import { oomBenchmark } from './oom.ts';
import { pauseBenchmark } from './pause.ts';
import { poolBenchmark } from './pool.ts';
import { probesBenchmark } from './probes.ts';
import { scriptBenchmark } from './script.ts';
import { seccompBenchmark } from './seccomp.ts';
import { snapshotBenchmark } from './snapshot.ts';
import { syscallsBenchmark } from './syscalls.ts';

export const BENCHMARKS: readonly Benchmark[] = [
  bootBenchmark,
  cloneBenchmark,
  poolBenchmark,
  scriptBenchmark,
  langchainBenchmark,
  snapshotBenchmark,
  pauseBenchmark,
  forkBenchmark,
  memoryBenchmark,
  channelBenchmark,
  channelMemoryBenchmark,
  ipcBenchmark,
  bridgeBenchmark,
  networkBenchmark,
  seccompBenchmark,
  probesBenchmark,
  syscallsBenchmark,
  oomBenchmark,
  growBenchmark,
];
