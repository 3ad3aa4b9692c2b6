import { describe, expect, it } from 'vitest';
import { BuildCounter } from './build.ts';

describe('BuildCounter', () => {
  it('counts steps of the build and names the last one', () => {
    const counter = new BuildCounter(4);
    expect(counter.line('  CC      kernel/fork.o')).toEqual({ fraction: 0.25, detail: 'CC kernel/fork.o' });
    expect(counter.line('  AR      lib/built-in.a')?.fraction).toBe(0.5);
  });
  it('ignores warnings and make’s own lines', () => {
    const counter = new BuildCounter(4);
    expect(counter.line('make[1]: Entering directory')).toBeUndefined();
    expect(counter.line('kernel/fork.c:12: warning: x')).toBeUndefined();
  });
  it('stays below 1 when a newer source has more files', () => {
    const counter = new BuildCounter(1);
    counter.line('  CC      a.o');
    expect(counter.line('  CC      b.o')?.fraction).toBe(0.99);
  });
});
