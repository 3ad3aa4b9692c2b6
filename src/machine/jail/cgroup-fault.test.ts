import { describe, expect, it } from 'vitest';
import { type CgroupAttempt, explainCgroupFault } from './cgroup-fault.ts';
import type { CgroupPaths } from './cgroup-paths.ts';

const MOUNT = '/sys/fs/cgroup';
const SERVICE = `${MOUNT}/system.slice/nv.service`;
const V2: CgroupPaths = { v1: new Map(), v2: { dir: SERVICE, mount: MOUNT } };
const V1: CgroupPaths = { v1: new Map([['memory', `${MOUNT}/memory`]]), v2: null };
const HYBRID: CgroupPaths = { ...V1, v2: { dir: `${MOUNT}/unified`, mount: `${MOUNT}/unified` } };
const all = (): Set<string> => new Set(['memory', 'pids', 'cpu', 'io']);
const none = (): Set<string> => new Set();
const failed = (code: string, dir = SERVICE): CgroupAttempt => ({ dir, step: 'make', code });

describe('explainCgroupFault', () => {
  it.each([
    ['a read-only mount', V2, [failed('EROFS')], all, /nv\.service is on a read-only mount/, /mount -o remount,rw/],
    ['a read-only mount of v1', V1, [failed('EROFS', '/x')], none, /\/x is on a read-only mount/, /remount,rw/],
    ['no mount', { v1: new Map(), v2: null }, [], none, /no mount shows the control group/, /mount -t cgroup2/],
    ['a lack of delegation', V2, [failed('EACCES')], all, /may not change .*nv\.service/, /Delegate=yes/],
    ['a group with processes', V2, [failed('EBUSY')], all, /has processes of its own/, /DelegateSubgroup=/],
    ['controllers that are off', V2, [], none, /at \/sys\/fs\/cgroup have no controller/, /cgroup_disable=/],
    [
      'a controller without a mount',
      V1,
      [],
      none,
      /no mount of control groups has memory, pids/,
      /mount -t cgroup -o memory/,
    ],
    ['a hybrid host without it', HYBRID, [], none, /no mount of control groups has/, /unified_cgroup_hierarchy=1/],
    ['something else', V2, [failed('ENOSPC')], all, /no group can be made for memory, pids/, /Delegate=yes/],
  ] as const)('explainCgroupFault: names %s and the remedy', (_, paths, attempts, at, cause, remedy) => {
    const fault = explainCgroupFault(['memory', 'pids'], paths, attempts, at);
    expect(fault.cause).toMatch(cause);
    expect(fault.remedy).toMatch(remedy);
    expect(fault.remedy).not.toMatch(/\.$/);
  });
});
