/** The channel against TCP over a TAP: the same VM, the same server, the same client. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { modulePath } from '../../src/base/module-path.ts';
import { MIB } from '../../src/base/units.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { rowsOf } from '../compare.ts';
import type { TrafficSamples } from './guest-traffic.ts';
import type { IpcSamples } from './ipc-peer.ts';

const run = promisify(execFile);
/** Fits a thousand round trips per way and round, as text. */
const OUTPUT_BYTES_MAX = 64 * MIB;
const FIGURES = [
  { name: 'rtt', unit: 'µs', pick: (of: TrafficSamples) => of.rttUs },
  { name: 'g2h', unit: 'MB/s', pick: (of: TrafficSamples) => of.g2hMbPerS },
  { name: 'h2g', unit: 'MB/s', pick: (of: TrafficSamples) => of.h2gMbPerS },
] as const;

export const ipcBenchmark: Benchmark = {
  names: FIGURES.map(({ name }) => `ipc.${name}`),
  summary: 'the channel against TCP over a TAP of the same VM: round trip and throughput (root)',
  async measure(context) {
    const { rounds, signal, say, runtime } = context;
    if (process.geteuid?.() !== 0) return this.names.map((name) => notMeasured(context, name));
    say(`${rounds} rounds of 1000 round trips and 64 MiB each way, by both ways`);
    const peer = modulePath('./ipc-peer.ts', import.meta.url);
    const args = [runtime.artifacts.kernelPath, acceleratorOf(context), String(rounds)];
    const { stdout } = await run('unshare', ['--net', process.execPath, peer, ...args], {
      signal,
      maxBuffer: OUTPUT_BYTES_MAX,
    });
    const samples = JSON.parse(stdout) as IpcSamples;
    return FIGURES.map(({ name, unit, pick }) => {
      const baseline = ['TCP over a TAP, no packet filter', pick(samples.tcp)] as const;
      return rowsOf(unit, acceleratorOf(context))(`ipc.${name}`, pick(samples.vsock), baseline);
    });
  },
};

function acceleratorOf({ runtime }: BenchContext): 'kvm' | 'tcg' {
  return runtime.driver.accelerator === 'kvm' ? 'kvm' : 'tcg';
}

function notMeasured(context: BenchContext, name: string): Measurement {
  const nothing = { samples: [], baseline: null, failed: 1, note: 'needs root' };
  return { name, unit: 'µs', accelerator: acceleratorOf(context), ...nothing };
}
