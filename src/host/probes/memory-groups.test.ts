import { describe, expect, it } from 'vitest';
import { MIB } from '../../base/units.ts';
import { limitedGroups, MemoryGroups } from './memory-groups.ts';

describe('limitedGroups', () => {
  it('the group and all its ancestors with the controller, without the root', () => {
    const v2 = new Set(['/c/a/b/memory.max', '/c/a/memory.max']);
    expect(limitedGroups('/c/a/b/leaf', (path) => v2.has(path))).toEqual(['/c/a/b', '/c/a']);
    const v1 = new Set(['/c/memory/x/memory.limit_in_bytes', '/c/memory/memory.limit_in_bytes']);
    expect(limitedGroups('/c/memory/x', (path) => v1.has(path))).toEqual(['/c/memory/x', '/c/memory']);
    expect(limitedGroups('/', () => true)).toEqual([]);
  });
});

describe('MemoryGroups', () => {
  it('the least available memory counts, and the smallest limit', () => {
    const files: Record<string, string> = {
      '/a/b/memory.max': `${2048 * MIB}\n`,
      '/a/b/memory.current': `${600 * MIB}\n`,
      '/a/b/memory.stat': `inactive_file ${100 * MIB}\n`,
      '/a/memory.max': `${4096 * MIB}\n`,
      '/a/memory.current': `${4000 * MIB}\n`,
      '/a/memory.stat': 'inactive_file 0\n',
    };
    const groups = new MemoryGroups(['/a/b', '/a'], (path) => files[path] ?? null);
    expect(groups.limitMib()).toBe(2048);
    expect(groups.availableMib()).toBe(96);
    files['/a/memory.max'] = 'max\n';
    expect(groups.availableMib()).toBe(1548);
    files['/a/b/memory.max'] = 'max\n';
    expect([groups.limitMib(), groups.availableMib()]).toEqual([Infinity, Infinity]);
  });

  it('on this host: available memory never exceeds the limit', () => {
    const groups = new MemoryGroups();
    expect(groups.availableMib()).toBeLessThanOrEqual(groups.limitMib());
    expect(groups.availableMib()).toBeGreaterThan(0);
  });
});
