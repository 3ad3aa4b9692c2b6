/** How long a sandbox's network takes to make and to remove, everything that confines it included. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { Benchmark, Measurement } from './benchmark.ts';
import type { NetworkSamples } from './network-peer.ts';

const run = promisify(execFile);

export const networkBenchmark: Benchmark = {
  names: ['network.make', 'network.remove'],
  summary:
    'TAP, addresses, resolver, gateway and packet filter of a sandbox, in a namespace (root)',
  async measure({ rounds, signal, say }) {
    if (process.geteuid?.() !== 0) return this.names.map(notMeasured);
    say(`network, ${rounds} rounds`);
    const peer = new URL('./network-peer.ts', import.meta.url).pathname;
    const args = ['--net', process.execPath, peer, String(rounds)];
    const { stdout } = await run('unshare', args, { signal });
    const { make, remove, makeTap, removeTap } = JSON.parse(stdout) as NetworkSamples;
    const row = (name: string, samples: number[], baseline: number[]): Measurement => ({
      ...{ name, unit: 'ms', accelerator: 'none', samples },
      baseline: { name: 'a TAP with an address alone', samples: baseline },
    });
    return [row('network.make', make, makeTap), row('network.remove', remove, removeTap)];
  },
};

function notMeasured(name: string): Measurement {
  const nothing = { samples: [], baseline: null, failed: 1 };
  return { name, unit: 'ms', accelerator: 'none', ...nothing, note: 'needs root' };
}
