/** The time to make and remove a sandbox's network, and the cost of its rules per packet. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { modulePath } from '../../src/base/module-path.ts';
import type { Benchmark, Measurement } from '../benchmark.ts';
import { rowsOf } from '../compare.ts';
import type { NetworkSamples } from './peer.ts';

const run = promisify(execFile);
const BY_HAND = 'three `ip` and one `nft`, a policy of five rules';

export const networkBenchmark: Benchmark = {
  names: [
    'network.make',
    'network.remove',
    'network.make/among-200',
    'network.remove/among-200',
    'network.make/200-at-once',
    'network.remove/200-at-once',
    'network.traffic/among-200',
    'network.packet/100-bytes',
    'network.packet/1400-bytes',
  ],
  summary: 'TAP, addresses, resolver, gateway and packet filter of a sandbox, in a namespace (root)',
  withoutRuntime: true,
  async measure({ rounds, signal, say }) {
    if (process.geteuid?.() !== 0) return this.names.map(notMeasured);
    say(`networks one by one and 200 at once, ${rounds} rounds`);
    const peer = modulePath('./peer.ts', import.meta.url);
    const args = ['--net', process.execPath, peer, String(rounds)];
    const { stdout } = await run('unshare', args, { signal });
    return measurements(JSON.parse(stdout) as NetworkSamples);
  },
};

function measurements(samples: NetworkSamples): Measurement[] {
  const { alone, byHand, amongMany, amongManyByHand, atOnce, traffic, forward } = samples;
  const [row, packetRow] = [rowsOf('ms', 'none'), rowsOf('µs', 'none')];
  const byHandOf = (times: readonly number[]) => [BY_HAND, times] as const;
  const all = (one: readonly number[]): string =>
    `from the call for all of them until each exists or is gone; all: ${Math.max(...one).toFixed(0)} ms`;
  return [
    row('network.make', alone.make, byHandOf(byHand.make)),
    row('network.remove', alone.remove, byHandOf(byHand.remove)),
    row('network.make/among-200', amongMany.make, byHandOf(amongManyByHand.make)),
    row('network.remove/among-200', amongMany.remove, byHandOf(amongManyByHand.remove)),
    row('network.make/200-at-once', atOnce.make, null, { note: all(atOnce.make) }),
    row('network.remove/200-at-once', atOnce.remove, null, { note: all(atOnce.remove) }),
    row('network.traffic/among-200', traffic, null, { note: 'the counters of one sandbox' }),
    ...forward.map(({ packetBytes, ours, acceptAll }) =>
      packetRow(`network.packet/${packetBytes}-bytes`, ours, ['a table that accepts all and masquerades', acceptAll], {
        note: 'from a write to the TAP until it is on the uplink, one flow, one processor',
      }),
    ),
  ];
}

function notMeasured(name: string): Measurement {
  return rowsOf('ms', 'none')(name, [], null, { failed: 1, note: 'needs root' });
}
