import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { CgroupMemory } from './cgroup-memory.ts';
import { type CgroupMemoryEvent, readGroupMemory, readGroupRoom, readSample } from './memory-counters.ts';

const V2 = {
  'memory.current': '1000\n',
  'memory.max': '2000\n',
  'memory.stat': 'anon 500\nfile 300\nshmem 100\n',
  'memory.events': 'low 0\nhigh 3\nmax 4\noom 1\noom_kill 2\noom_group_kill 0\n',
  'memory.pressure':
    'some avg10=12.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=3.00 avg60=0.00 avg300=0.00 total=1\n',
};
const V1 = {
  'memory.usage_in_bytes': '1000\n',
  'memory.limit_in_bytes': '2000\n',
  'memory.stat': 'cache 300\nrss 500\nshmem 100\n',
  'memory.failcnt': '7\n',
  'memory.oom_control': 'oom_kill_disable 0\nunder_oom 0\noom_kill 2\n',
};
const reader = (files: Readonly<Record<string, string>>) => (name: string) => files[name] ?? null;

describe('readGroupRoom', () => {
  it('v1 and v2: memory below the limit plus cached files, active ones by half; null without a limit', () => {
    const stat = 'anon 500\ninactive_file 200\nactive_file 100\n';
    const v2 = { ...V2, 'memory.stat': stat };
    expect(readGroupRoom(reader(v2))).toEqual({ limitBytes: 2000, availableBytes: 1250 });
    const throttled = { ...v2, 'memory.high': '900\n' };
    expect(readGroupRoom(reader(throttled))).toEqual({ limitBytes: 900, availableBytes: 150 });
    const v1 = {
      ...V1,
      'memory.stat': 'active_file 1\ninactive_file 1\ntotal_inactive_file 300\ntotal_active_file 80\n',
    };
    expect(readGroupRoom(reader(v1))).toEqual({ limitBytes: 2000, availableBytes: 1340 });
    const over = { ...v2, 'memory.high': '100\n' };
    expect(readGroupRoom(reader(over))?.availableBytes).toBe(0);
    expect(readGroupRoom(reader({ ...v2, 'memory.max': 'max\n' }))).toBeNull();
    const unlimited = { ...V1, 'memory.limit_in_bytes': '9223372036854771712\n' };
    expect(readGroupRoom(reader(unlimited))).toBeNull();
    expect(readGroupRoom(reader({}))).toBeNull();
  });
});

describe('readGroupMemory', () => {
  const both = { currentBytes: 1000, peakBytes: 1500, limitBytes: 2000 };
  it('reads v1 and v2; uses current usage for a missing peak; null for a removed group', () => {
    const v2 = { ...V2, 'memory.peak': '1500\n' };
    expect(readGroupMemory(reader(v2))).toEqual(both);
    expect(readGroupMemory(reader({ ...V1, 'memory.max_usage_in_bytes': '1500\n' }))).toEqual(both);
    expect(readGroupMemory(reader(V2))).toEqual({ ...both, peakBytes: 1000 });
    expect(readGroupMemory(reader({ ...v2, 'memory.max': 'max\n' }))?.limitBytes).toBe(0);
    expect(readGroupMemory(reader({}))).toBeNull();
  });
});

describe('readSample', () => {
  const both = { memoryBytes: 1000, limitBytes: 2000, reclaimableBytes: 200, hits: 7, oomKills: 2 };
  it('v2', () => {
    expect(readSample(reader(V2))).toEqual({ ...both, some: 12.5, full: 3 });
  });
  it('v1', () => {
    expect(readSample(reader(V1))).toEqual({ ...both, some: 0, full: 0 });
  });
  it('reads no limit as 0', () => {
    expect(readSample(reader({ ...V2, 'memory.max': 'max\n' }))?.limitBytes).toBe(0);
    const most = { ...V1, 'memory.limit_in_bytes': '9223372036854771712\n' };
    expect(readSample(reader(most))?.limitBytes).toBe(0);
  });
  it('returns null for a removed group or another file', () => {
    expect(readSample(reader({}))).toBeNull();
    expect(readSample(reader({ 'memory.usage_in_bytes': 'x' }))).toBeNull();
    expect(readSample(reader({ 'memory.events': '', 'memory.current': '' }))).toBeNull();
  });
});

describe('CgroupMemory', () => {
  function watched() {
    const files: Record<string, string> = { ...V1, 'memory.oom_control': 'oom_kill 0\n' };
    const clock = new FakeClock();
    const memory = new CgroupMemory('', clock, (name) => files[name] ?? null);
    const seen: CgroupMemoryEvent[] = [];
    const stop = memory.listen((event) => void seen.push(event));
    const types = (): string[] => seen.splice(0).map(({ type }) => type);
    return { files, clock, memory, stop, types };
  }

  it('reports pressure, an imminent kill, and kills', () => {
    const { files, clock, memory, types } = watched();
    clock.advance(1000);
    expect(types()).toEqual([]);
    files['memory.failcnt'] = '8';
    clock.advance(250);
    expect(types()).toEqual(['pressure']);
    files['memory.usage_in_bytes'] = '2150';
    clock.advance(250);
    expect(types()).toEqual(['near_oom']);
    // Reported once, and again while the state lasts.
    clock.advance(4000);
    expect(types()).toEqual([]);
    clock.advance(1000);
    expect(types()).toEqual(['near_oom']);
    files['memory.oom_control'] = 'oom_kill 1';
    clock.advance(250);
    expect(types()).toEqual(['oom']);
    expect(memory.oomKills()).toBe(1);
  });

  it('MemoryJudge: page cache is not memory pressure', () => {
    const { files, clock, types } = watched();
    files['memory.usage_in_bytes'] = '2000';
    files['memory.stat'] = 'cache 1500\nshmem 100\n';
    clock.advance(250);
    expect(types()).toEqual([]);
  });

  it('reads once more at the end, and keeps its last counts if the group is gone', () => {
    const { files, clock, memory, stop, types } = watched();
    files['memory.oom_control'] = 'oom_kill 1';
    stop();
    stop();
    expect(types()).toEqual(['oom']);
    for (const name of Object.keys(files)) delete files[name];
    clock.advance(10_000);
    expect(memory.oomKills()).toBe(1);
  });
});
