/** The vsock channel: round trip, throughput and memory, against the Rust reference if installed. */
import { homedir } from 'node:os';
import { join } from 'node:path';
import { describeError, errorCode } from '../../src/base/errors.ts';
import { MIB } from '../../src/base/units.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { rowsOf } from '../compare.ts';
import { findProgram } from '../program.ts';
import { MIB_PER_ROUND } from './guest-traffic.ts';
import { compareVsock, measureVsock, VsockBench, type VsockSamples } from './vsock.ts';

const RUST_PROGRAM = 'vhost-device-vsock';

export const channelBenchmark: Benchmark = {
  names: ['vsock.rtt', 'vsock.g2h', 'vsock.h2g'],
  summary: `the channel's round trip and throughput each way, against ${RUST_PROGRAM}`,
  async measure(context) {
    const { rounds, say } = context;
    const options = { ...vmOptions(context), rounds };
    // The backend that guests of this host have.
    const backend = context.runtime.driver.capabilities.mapsMemory === true ? 'copied' : 'neurovisor';
    // `cargo install` puts it there.
    const rustPath = findProgram(RUST_PROGRAM, process.env, [join(homedir(), '.cargo/bin')]);
    say(`${rounds} rounds of 1000 round trips and 64 MiB each way`);
    let why = `${RUST_PROGRAM} is not installed (cargo install ${RUST_PROGRAM}@0.3.0)`;
    if (rustPath !== null) {
      try {
        const backends = { ours: backend, baseline: 'rust' } as const;
        const both = await compareVsock({ ...options, rustPath }, backends);
        const baseline = { name: RUST_PROGRAM, samples: both.baseline };
        return measurements(context, 'vsock', both.ours, baseline);
      } catch (error) {
        // The reference can't parse packets of guests newer than 6.1. If the fault is ours, the next run fails too.
        if (errorCode(error) !== 'guest_silent') throw error;
        why = `with ${RUST_PROGRAM} it failed: ${describeError(error)}`;
      }
    }
    const ours = await measureVsock({ ...options, backend });
    return measurements(context, 'vsock', ours, null, `no baseline: ${why}`);
  },
};

export const copiedChannelBenchmark: Benchmark = {
  names: ['vsock.copied.rtt', 'vsock.copied.g2h', 'vsock.copied.h2g', 'vsock.copied.g2h-cpu', 'vsock.copied.h2g-cpu'],
  summary: 'the same of a device that copies memory which QEMU does not share, against one that maps it',
  async measure(context) {
    const { rounds, say } = context;
    say(`${rounds} rounds of 1000 round trips and 64 MiB each way, of two guests in turn`);
    const backends = { ours: 'copied', baseline: 'neurovisor' } as const;
    const both = await compareVsock({ ...vmOptions(context), rounds }, backends);
    const baseline = { name: 'mapped', samples: both.baseline };
    const note = `processor time of the device's thread for ${MIB_PER_ROUND} MiB`;
    const row = rowsOf('ms', acceleratorOf(context));
    const cpu = (['g2hCpuMs', 'h2gCpuMs'] as const).map((figure) =>
      row(`vsock.copied.${figure.slice(0, 3)}-cpu`, both.ours[figure], [baseline.name, both.baseline[figure]], {
        note,
      }),
    );
    return [...measurements(context, 'vsock.copied', both.ours, baseline), ...cpu];
  },
};

const PUSHES = 16;
const SAMPLE_EVERY_MS = 50;

export const channelMemoryBenchmark: Benchmark = {
  names: ['vsock.memory'],
  summary: 'how much the process grows while a guest pushes 1 GiB to the host (and gets 1 GiB)',
  async measure(context) {
    const bench = await VsockBench.open({ ...vmOptions(context), backend: 'neurovisor' });
    try {
      // The first rounds warm up the JIT and buffers; later growth comes from the data.
      for (let n = 0; n < 3; n += 1) await bench.round();
      const before = process.memoryUsage.rss();
      const samples: number[] = [];
      const timer = setInterval(() => {
        samples.push((process.memoryUsage.rss() - before) / MIB);
      }, SAMPLE_EVERY_MS);
      try {
        for (let n = 1; n <= PUSHES; n += 1) {
          context.say(`${n * 64} of 1024 MiB`);
          await bench.round();
        }
      } finally {
        clearInterval(timer);
      }
      const accelerator = acceleratorOf(context);
      const note = 'growth of the resident set, device and benchmark client in one process';
      return [{ name: 'vsock.memory', unit: 'MiB', accelerator, samples, baseline: null, note }];
    } finally {
      await bench.close();
    }
  },
};

function measurements(
  context: BenchContext,
  prefix: string,
  ours: VsockSamples,
  theirs: { readonly name: string; readonly samples: VsockSamples } | null,
  note?: string,
): Measurement[] {
  const one = (name: string, unit: Measurement['unit'], pick: (samples: VsockSamples) => readonly number[]) => {
    const baseline = theirs === null ? null : ([theirs.name, pick(theirs.samples)] as const);
    return rowsOf(unit, acceleratorOf(context))(name, pick(ours), baseline, { note });
  };
  return [
    one(`${prefix}.rtt`, 'µs', (samples) => samples.rttUs),
    one(`${prefix}.g2h`, 'MB/s', (samples) => samples.g2hMbPerS),
    one(`${prefix}.h2g`, 'MB/s', (samples) => samples.h2gMbPerS),
  ];
}

function vmOptions(context: BenchContext) {
  const { runtime } = context;
  return { kernelPath: runtime.artifacts.kernelPath, accelerator: acceleratorOf(context) };
}

function acceleratorOf({ runtime }: BenchContext): 'kvm' | 'tcg' {
  return runtime.driver.accelerator === 'kvm' ? 'kvm' : 'tcg';
}
