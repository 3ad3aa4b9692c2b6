/** What Prometheus expects of every process, and the processors of this one (io: /proc by Node). */
import { availableParallelism } from 'node:os';
import { type Metric, single } from '../base/metrics.ts';

const MICROSECONDS_PER_SECOND = 1e6;

export function processMetrics(): readonly Metric[] {
  return [
    single(
      'gauge',
      { name: 'neurovisor_host_cpus', help: 'Processors that this process may use.', unit: null },
      availableParallelism,
    ),
    single(
      'gauge',
      {
        name: 'process_resident_memory_bytes',
        help: 'Memory of the daemon that is in RAM.',
        unit: 'bytes',
      },
      () => process.memoryUsage.rss(),
    ),
    single(
      'counter',
      {
        name: 'process_cpu_seconds_total',
        help: 'Processor time of the daemon.',
        unit: 'seconds',
      },
      () => {
        const { user, system } = process.cpuUsage();
        return (user + system) / MICROSECONDS_PER_SECOND;
      },
    ),
  ];
}
