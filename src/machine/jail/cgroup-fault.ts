/** Explains why VMMs can't have cgroup limits on this host, and the remedy. Pure. */
import type { CgroupPaths, Controller } from './cgroup-paths.ts';

export interface CgroupAttempt {
  readonly dir: string;
  /** `make` a group in it, or `enable` controllers for its groups. */
  readonly step: 'make' | 'enable';
  /** Node's error code; undefined for another error. */
  readonly code: string | undefined;
}

export interface CgroupFault {
  /** One clause. */
  readonly cause: string;
  /** One imperative sentence without a full stop. */
  readonly remedy: string;
}

const DELEGATE =
  'start NeuroVisor in a systemd unit with Delegate=yes (docs/daemon.md, As a systemd service), or as root';

/**
 * @param missing controllers for which no group can be made
 * @param controllersAt the controllers of a version 2 group, by the kernel's names
 */
export function explainCgroupFault(
  missing: readonly Controller[],
  paths: CgroupPaths,
  attempts: readonly CgroupAttempt[],
  controllersAt: (dir: string) => ReadonlySet<string>,
): CgroupFault {
  const names = missing.join(', ');
  const { v1, v2 } = paths;
  const failed = (...codes: string[]): CgroupAttempt | undefined =>
    attempts.find(({ code }) => codes.includes(code ?? ''));
  const readOnly = failed('EROFS');
  if (readOnly !== undefined) {
    return {
      cause: `the control group ${readOnly.dir} is on a read-only mount`,
      remedy: 'remount it (mount -o remount,rw /sys/fs/cgroup); in a container, let the runtime mount it writable',
    };
  }
  if (v1.size === 0 && v2 === null) {
    return {
      cause: 'no mount shows the control group of this process',
      remedy:
        'mount control groups (mount -t cgroup2 none /sys/fs/cgroup); in a container, let the runtime mount those of its own namespace',
    };
  }
  const denied = failed('EACCES', 'EPERM');
  const isOffered = (dir: string): boolean => missing.every((name) => controllersAt(dir).has(name));
  if (v2 === null || (v1.size > 0 && !isOffered(v2.mount) && denied === undefined)) {
    return {
      cause: `no mount of control groups has ${names}`,
      remedy: `mount it (mount -t cgroup -o ${missing[0]} none /sys/fs/cgroup/${missing[0]}), or boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1)`,
    };
  }
  if (v1.size === 0 && !isOffered(v2.mount)) {
    return {
      cause: `the control groups at ${v2.mount} have no controller for ${names}`,
      remedy:
        'boot without cgroup_disable=; in a container, let the host give it these controllers (cgroup.subtree_control)',
    };
  }
  // Groups are tried from the own one upwards: the first failure belongs to the nearest group.
  const nearest = failed('EACCES', 'EPERM', 'EBUSY');
  if (nearest?.code === 'EBUSY') {
    return {
      cause: `the control group ${nearest.dir} has processes of its own, so its groups get no controllers`,
      remedy:
        'start NeuroVisor as the only program of a systemd unit with User= and Delegate=yes (docs/daemon.md, As a systemd service), or in a group below it: with DelegateSubgroup=main (systemd 254), or in a container whose init does so',
    };
  }
  if (nearest !== undefined) {
    return { cause: `this user may not change the control group ${nearest.dir}`, remedy: DELEGATE };
  }
  return { cause: `no group can be made for ${names} in ${v2.dir}`, remedy: DELEGATE };
}
