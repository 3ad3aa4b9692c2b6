/** Every benchmark that `neurovisor bench` knows. */
import type { Benchmark } from './benchmark.ts';
import { bootBenchmark } from './boot.ts';
import { bridgeBenchmark } from './bridge.ts';
import { channelBenchmark, channelMemoryBenchmark } from './channel.ts';
import { cloneBenchmark } from './clone.ts';
import { scriptBenchmark } from './script.ts';

export const BENCHMARKS: readonly Benchmark[] = [
  bootBenchmark,
  cloneBenchmark,
  scriptBenchmark,
  channelBenchmark,
  channelMemoryBenchmark,
  bridgeBenchmark,
];
