/** The standard Prometheus metrics of this process (I/O). */
import { availableParallelism } from 'node:os';
import { gauge, type Metric, total } from '../../base/metrics.ts';

const MICROSECONDS_PER_SECOND = 1e6;

export function processMetrics(): readonly Metric[] {
  return [
    gauge('neurovisor_host_cpus', 'Processors available to this process.', availableParallelism),
    gauge('process_resident_memory_bytes', 'Resident memory of the daemon.', () => process.memoryUsage.rss()),
    total('process_cpu_seconds_total', 'Processor time of the daemon.', () => {
      const { user, system } = process.cpuUsage();
      return (user + system) / MICROSECONDS_PER_SECOND;
    }),
  ];
}
