/** The control groups that the jailer makes for one VM and leaves behind, one per hierarchy that it used. */
import { readFile, rmdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { ifThere } from '../../../../base/errors.ts';
import type { JailSpec } from './jailer.ts';

/** @returns directories that may exist once the VM runs; most do not */
export async function cgroupsOf(jail: JailSpec, id: string, binary: string): Promise<string[]> {
  const { cgroup } = jail;
  if (cgroup === undefined) return [];
  const type = cgroup.version === 1 ? 'cgroup' : 'cgroup2';
  const mounts = (await readFile('/proc/self/mounts', 'utf8')).split('\n');
  return mounts.flatMap((line) => {
    const [, at, found] = line.split(' ');
    if (found !== type || at === undefined) return [];
    return [join(at, cgroup.parent ?? basename(binary), id)];
  });
}

/** Removes the groups; they must be empty. */
export async function removeCgroups(dirs: readonly string[]): Promise<void> {
  for (const dir of dirs) await ifThere(rmdir(dir));
}
