/** A memory cgroup of either version, to cause memory pressure without affecting the machine. */
import { existsSync, mkdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const V1 = '/sys/fs/cgroup/memory';
const V2 = '/sys/fs/cgroup';
const NO_GROUP = 'no control group for memory';

/** @returns the group, or the reason why there is none */
export function makeSmallCgroup(limitBytes: number): SmallCgroup | string {
  const isV1 = existsSync(join(V1, 'memory.limit_in_bytes'));
  if (!isV1 && !existsSync(join(V2, 'cgroup.controllers'))) return NO_GROUP;
  const dir = join(isV1 ? V1 : V2, `nv-test-${process.pid}`);
  mkdirSync(dir);
  const limit = join(dir, isV1 ? 'memory.limit_in_bytes' : 'memory.max');
  if (existsSync(limit)) {
    writeFileSync(limit, String(limitBytes));
    return { dir, [Symbol.dispose]: () => rmdirSync(dir) };
  }
  rmdirSync(dir);
  return NO_GROUP;
}

export interface SmallCgroup extends Disposable {
  readonly dir: string;
}
