import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { withoutHugePages } from './huge-pages.ts';

const enabled = (status: string): string | undefined => /^THP_enabled:\s+(\d)$/m.exec(status)?.[1];
const own = (): string | undefined => enabled(readFileSync('/proc/self/status', 'latin1'));
/** 0: this kernel has none. */
const USUAL = own();
/** Value of a grandchild process. */
const child = (): string | undefined =>
  enabled(spawnSync('sh', ['-c', 'cat /proc/self/status; true'], { encoding: 'latin1' }).stdout);

describe('withoutHugePages', () => {
  it('applies to processes that are started meanwhile, and to no other', () => {
    expect(child()).toBe(USUAL);
    expect(withoutHugePages(child)).toBe('0');
    expect([own(), child()]).toEqual([USUAL, USUAL]);
  });

  it('a start that fails changes nothing for later ones', () => {
    const fail = (): never => {
      throw new Error('no process');
    };
    expect(() => withoutHugePages(fail)).toThrow('no process');
    expect(own()).toBe(USUAL);
  });

  it('nested: stays until the outer call ends', () => {
    const both = withoutHugePages(() => [withoutHugePages(child), child(), own()]);
    expect(both).toEqual(['0', '0', '0']);
    expect(own()).toBe(USUAL);
  });
});
