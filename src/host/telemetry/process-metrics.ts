/** The standard Prometheus metrics of this process (I/O). */
import { availableParallelism } from 'node:os';
import { type Metric, single } from '../../base/metrics.ts';

const MICROSECONDS_PER_SECOND = 1e6;

export function processMetrics(): readonly Metric[] {
  return [
    single(
      'gauge',
      { name: 'neurovisor_host_cpus', help: 'Processors available to this process.', unit: null },
      availableParallelism,
    ),
    single(
      'gauge',
      { name: 'process_resident_memory_bytes', help: 'Resident memory of the daemon.', unit: 'bytes' },
      () => process.memoryUsage.rss(),
    ),
    single(
      'counter',
      { name: 'process_cpu_seconds_total', help: 'Processor time of the daemon.', unit: 'seconds' },
      () => {
        const { user, system } = process.cpuUsage();
        return (user + system) / MICROSECONDS_PER_SECOND;
      },
    ),
  ];
}
