/**
 * The values for a control group's files, by the version of its tree; pure. See Linux's Documentation/admin-guide:
 * cgroup-v2.rst, cgroup-v1/.
 */
import type { Controller } from './cgroup-paths.ts';
import type { IoLimits } from './disk-io.ts';

export interface CgroupLimits {
  readonly memoryBytes: number;
  readonly tasks: number;
  /** CPU time in whole processors; `null`: no limit, and no smaller share of the processors than without a group. */
  readonly cpus: number | null;
  /** Default: none. */
  readonly io?: IoLimits;
}

/** A tree of groups. */
export interface Hierarchy {
  readonly controllers: readonly Controller[];
  readonly version: 1 | 2;
}

interface Setting {
  readonly name: string;
  /** Missing in some kernels. */
  readonly optional?: boolean;
}

/** For cpu.cfs_period_us and cpu.max: the kernel's default. */
const CPU_PERIOD_US = 100_000;
/** cgroup-v2.rst: a hundred times the default. */
const CPU_WEIGHT_MAX = '10000';

export function limitFiles(tree: Hierarchy, limits: CgroupLimits): [Setting, string][] {
  const { memoryBytes, tasks, cpus } = limits;
  const has = (name: Controller): boolean => tree.controllers.includes(name);
  const quota = cpus === null ? null : String(cpus * CPU_PERIOD_US);
  const memory = String(memoryBytes);
  if (tree.version === 2) {
    return [
      ...(has('memory')
        ? ([
            [{ name: 'memory.max' }, memory],
            [{ name: 'memory.swap.max', optional: true }, '0'],
            [{ name: 'memory.oom.group' }, '1'],
          ] satisfies [Setting, string][])
        : []),
      ...(has('pids') ? ([[{ name: 'pids.max' }, String(tasks)]] satisfies [Setting, string][]) : []),
      ...(has('cpu')
        ? ([
            quota === null
              ? [{ name: 'cpu.weight', optional: true }, CPU_WEIGHT_MAX]
              : [{ name: 'cpu.max' }, `${quota} ${CPU_PERIOD_US}`],
          ] satisfies [Setting, string][])
        : []),
    ];
  }
  return [
    ...(has('memory')
      ? ([
          [{ name: 'memory.limit_in_bytes' }, memory],
          // Memory and swap together are limited to the same value as memory alone, so there is no swap.
          [{ name: 'memory.memsw.limit_in_bytes', optional: true }, memory],
        ] satisfies [Setting, string][])
      : []),
    ...(has('pids') ? ([[{ name: 'pids.max' }, String(tasks)]] satisfies [Setting, string][]) : []),
    ...(has('cpu') && quota !== null
      ? ([[{ name: 'cpu.cfs_quota_us', optional: true }, quota]] satisfies [Setting, string][])
      : []),
  ];
}

/** In version 1, a group that only counts CPU time would give all its processes together the share of one process. */
export function isNeeded(tree: Hierarchy, { cpus }: CgroupLimits): boolean {
  return tree.version === 2 || cpus !== null || tree.controllers.some((name) => name !== 'cpu');
}

/** Files of one disk: the file's name, and the text after the disk's number. */
export function ioFiles(version: Hierarchy['version'], limits: IoLimits): [string, string][] {
  const { bytesPerSecond, opsPerSecond } = limits;
  if (version === 2) {
    const [bytes, ops] = [bytesPerSecond ?? 'max', opsPerSecond ?? 'max'];
    return [['io.max', `rbps=${bytes} wbps=${bytes} riops=${ops} wiops=${ops}`]];
  }
  return (['read', 'write'] as const).flatMap((way): [string, string][] => [
    [`blkio.throttle.${way}_bps_device`, String(bytesPerSecond ?? 0)],
    [`blkio.throttle.${way}_iops_device`, String(opsPerSecond ?? 0)],
  ]);
}
