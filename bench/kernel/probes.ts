/** The cost of packet probes: an echo to the host and its answer, with and without our programs. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { resolveHome } from '../../src/base/home.ts';
import { modulePath } from '../../src/base/module-path.ts';
import { bpfDir } from '../../src/host/probes/latency.ts';
import type { Benchmark, Measurement } from '../benchmark.ts';
import { rowsOf } from '../compare.ts';
import type { ProbeReport, ProbesUnavailable } from './probes-peer.ts';

const run = promisify(execFile);
const row = rowsOf('µs', 'none');

const ROWS = {
  'probes.xdp': ['xdp', 'without', 'p50', 'no probes'],
  'probes.xdp-p99': ['xdp', 'without', 'p99', 'no probes'],
  'probes.tcx': ['tcx', 'guarded', 'p50', 'only the drop of packets to metadata services'],
  'probes.tcx-p99': ['tcx', 'guarded', 'p99', 'only the drop of packets to metadata services'],
  'probes.daemon': ['sampled', 'guarded', 'p50', 'only the drop of packets to metadata services'],
  'probes.daemon-p99': ['sampled', 'guarded', 'p99', 'only the drop of packets to metadata services'],
} as const;

export const probesBenchmark: Benchmark = {
  names: Object.keys(ROWS),
  summary: 'an echo from a TAP and its answer while eBPF measures them, in a namespace (root)',
  withoutRuntime: true,
  async measure({ rounds, signal, config, say }) {
    if (process.geteuid?.() !== 0) return this.names.map((name) => notMeasured(name, 'needs root'));
    say(`probes, ${rounds} rounds of 5000 echoes`);
    const peer = modulePath('./probes-peer.ts', import.meta.url);
    const dir = bpfDir(resolveHome(config.home));
    const args = ['--net', process.execPath, peer, String(rounds), dir];
    const { stdout } = await run('unshare', args, { signal });
    const report = JSON.parse(stdout) as ProbeReport | ProbesUnavailable;
    if ('unavailable' in report) return this.names.map((name) => notMeasured(name, report.unavailable));
    const programs = report.programs
      .filter(({ runs }) => runs > 0)
      .map(({ program, runs, ns }) => `${program} ${Math.round(ns / runs)} ns`);
    const note = `time per packet and program, by the kernel’s statistics: ${programs.join(', ')}`;
    return Object.entries(ROWS).map(([name, [which, baseline, figure, what]], index) =>
      row(name, report[which][figure], [what, report[baseline][figure]], { note: index === 0 ? note : undefined }),
    );
  },
};

function notMeasured(name: string, note: string): Measurement {
  return row(name, [], null, { failed: 1, note });
}
