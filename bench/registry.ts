import type { Benchmark } from './benchmark.ts';
import { fairnessBenchmark } from './bridge/fairness.ts';
import { gatewayBenchmark } from './bridge/gateway.ts';
import { bridgeBenchmark } from './bridge/overhead.ts';
import { channelBenchmark, channelMemoryBenchmark, copiedChannelBenchmark } from './channel/channel.ts';
import { ipcBenchmark } from './channel/ipc.ts';
import { relayBenchmark } from './channel/relay.ts';
import { workerBenchmark } from './channel/worker.ts';
import { e2bControlBenchmark } from './e2b/control.ts';
import { e2bMemoryBenchmark } from './e2b/memory.ts';
import { e2bBenchmark } from './e2b/sandboxes.ts';
import { engineBenchmark } from './engine/engine.ts';
import { buildBenchmark } from './environment/build.ts';
import { environmentBenchmark } from './environment/start.ts';
import { unpackBenchmark } from './environment/unpack.ts';
import { jailBenchmark } from './kernel/jail.ts';
import { probesBenchmark } from './kernel/probes.ts';
import { seccompBenchmark } from './kernel/seccomp.ts';
import { syscallsBenchmark } from './kernel/syscalls.ts';
import { enduranceBenchmark } from './memory/endurance.ts';
import { growBenchmark } from './memory/grow.ts';
import { manyBenchmark } from './memory/many.ts';
import { memoryBenchmark } from './memory/memory.ts';
import { oomBenchmark } from './memory/oom.ts';
import { memoryPartsBenchmark } from './memory/parts.ts';
import { vmmMemoryBenchmark } from './memory/vmm.ts';
import { networkBenchmark } from './network/network.ts';
import { installBenchmark } from './packages/install.ts';
import { bootBenchmark } from './start/boot.ts';
import { cloneBenchmark } from './start/clone.ts';
import { clonePartsBenchmark } from './start/clone-parts.ts';
import { forkBenchmark } from './start/fork.ts';
import { langchainBenchmark } from './start/langchain.ts';
import { pauseBenchmark } from './start/pause.ts';
import { poolBenchmark } from './start/pool.ts';
import { scriptBenchmark } from './start/script.ts';
import { snapshotBenchmark } from './start/snapshot.ts';
import { volumeBenchmark } from './start/volume.ts';
import { workBenchmark } from './start/work.ts';

export const BENCHMARKS: readonly Benchmark[] = [
  bootBenchmark,
  workBenchmark,
  cloneBenchmark,
  clonePartsBenchmark,
  poolBenchmark,
  scriptBenchmark,
  langchainBenchmark,
  snapshotBenchmark,
  pauseBenchmark,
  forkBenchmark,
  volumeBenchmark,
  environmentBenchmark,
  unpackBenchmark,
  buildBenchmark,
  installBenchmark,
  e2bBenchmark,
  e2bMemoryBenchmark,
  memoryBenchmark,
  memoryPartsBenchmark,
  manyBenchmark,
  enduranceBenchmark,
  vmmMemoryBenchmark,
  channelBenchmark,
  copiedChannelBenchmark,
  channelMemoryBenchmark,
  workerBenchmark,
  relayBenchmark,
  ipcBenchmark,
  bridgeBenchmark,
  gatewayBenchmark,
  fairnessBenchmark,
  engineBenchmark,
  networkBenchmark,
  jailBenchmark,
  seccompBenchmark,
  probesBenchmark,
  syscallsBenchmark,
  oomBenchmark,
  growBenchmark,
  e2bControlBenchmark,
];
