/** Disk limits of processes in control groups. */
import { readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLog } from '../../src/base/log.ts';
import { findCgroups } from '../../src/machine/jail/cgroup-paths.ts';
import { ioLimits } from '../../src/machine/jail/disk-io.ts';
import { openCgroups } from '../../src/machine/jail/open.ts';
import { type Requirement, requires } from './requires.ts';

const read = (path: string): string => readFileSync(path, 'latin1');

/** A control group that can limit the disk of temporary files. */
export async function requiresDiskLimits(): Promise<Requirement<true>> {
  if (ioLimits([tmpdir()], {}).disks.length === 0) {
    return requires<true>('disk-limits', `${tmpdir()} is on no disk that can be limited`);
  }
  const groups = await openCgroups(silentLog);
  const canLimit = groups?.controllers.includes('blkio') === true;
  return requires('disk-limits', canLimit || 'no control group limits disks here');
}

/** The limits of a process's group, in any version and unit: each for reads and for writes. */
export function ioSettings(pid: number): string[] {
  const { v1, v2 } = findCgroups(read('/proc/self/mountinfo'), read(`/proc/${pid}/cgroup`));
  const group = v1.get('blkio') ?? v2?.dir ?? '';
  return readdirSync(group)
    .filter((name) => /^(io\.max|blkio\.throttle\..*_device)$/.test(name))
    .flatMap((name) => read(join(group, name)).match(/(?<=[ =])\d+/g) ?? []);
}
