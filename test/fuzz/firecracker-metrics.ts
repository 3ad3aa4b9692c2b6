/** Firecracker's counters, whose numbers a guest causes: sums within bounds, the same however the lines come. */
import { MetricsReader } from '../../src/machine/vmm/firecracker/process/metrics.ts';
import { sameHoweverCut } from './cuts.ts';
import { must, target } from './target.ts';

export const firecrackerMetrics = target(
  'firecracker-metrics',
  (bytes) => {
    sameHoweverCut(bytes, (pieces) => {
      const reader = new MetricsReader();
      for (const piece of pieces) reader.push(piece);
      const sums = ['rx_bytes_count', 'tx_bytes_count', '__proto__', 'a'].map((counter) =>
        reader.sum('vsock', counter),
      );
      for (const sum of sums) must(sum >= 0 && sum <= Number.MAX_SAFE_INTEGER, `a sum of ${sum}`);
      return JSON.stringify(sums);
    });
  },
  {
    seeds: [
      '{"vsock":{"rx_bytes_count":7,"tx_bytes_count":1e300},"net":{"a":1}}\n{"vsock":{"rx_bytes_count":-1}}\n',
      '{"vsock":null}\n[]\n{"vsock":{"__proto__":5,"a":"x"}}\n{',
    ],
  },
);
