import { describe, expect, it } from 'vitest';
import { isNeeded, limitFiles } from './cgroup-settings.ts';

const LIMITS = { memoryBytes: 1_000, tasks: 10, cpus: null };
const names = (files: ReturnType<typeof limitFiles>): string[] => files.map(([{ name }]) => name);

describe('a group without a limit of CPU time', () => {
  it('isNeeded: false for a version 1 tree that only shares processors', () => {
    const cpu = { controllers: ['cpu'], version: 1 } as const;
    expect(isNeeded(cpu, LIMITS)).toBe(false);
    expect(isNeeded(cpu, { ...LIMITS, cpus: 2 })).toBe(true);
    expect(isNeeded({ controllers: ['memory'], version: 1 }, LIMITS)).toBe(true);
    expect(isNeeded({ controllers: ['cpu', 'memory'], version: 2 }, LIMITS)).toBe(true);
  });
  it('limitFiles: the highest weight and no quota in version 2, nothing in version 1', () => {
    const v2 = limitFiles({ controllers: ['cpu', 'pids'], version: 2 }, LIMITS);
    expect(v2.find(([{ name }]) => name === 'cpu.weight')?.[1]).toBe('10000');
    expect(names(v2)).not.toContain('cpu.max');
    expect(names(limitFiles({ controllers: ['cpu', 'pids'], version: 1 }, LIMITS))).toEqual(['pids.max']);
  });
});
