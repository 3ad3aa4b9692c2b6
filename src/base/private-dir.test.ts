import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { privateDirFault, sharedDirFault } from './private-dir.ts';

let base = '';
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'nv-private-'));
});
afterEach(() => rmSync(base, { recursive: true }));

/** A directory of another user. */
function foreignDir(): string {
  if (process.geteuid?.() !== 0) return '/usr';
  const dir = join(base, 'foreign');
  mkdirSync(dir);
  chownSync(dir, 65_534, 65_534);
  return dir;
}

describe('privateDirFault', () => {
  it('accepts a missing directory, and one that only this user can write to', () => {
    expect(privateDirFault(join(base, 'missing'))).toBeUndefined();
    expect(privateDirFault(base)).toBeUndefined();
  });

  it.each([0o720, 0o702, 0o1777])('refuses mode %o', (mode) => {
    chmodSync(base, mode);
    expect(privateDirFault(base)).toBe('other users can write to it');
  });

  it('refuses links and directories of other users', () => {
    symlinkSync(base, join(base, 'link'));
    expect(privateDirFault(join(base, 'link'))).toBe('it is a symbolic link');
    expect(privateDirFault(foreignDir())).toMatch(/^its owner is user \d+$/);
  });
});

describe('sharedDirFault', () => {
  it('accepts a sticky directory, refuses a writable one without the sticky bit', () => {
    chmodSync(base, 0o1777);
    expect(sharedDirFault(base)).toBeUndefined();
    chmodSync(base, 0o777);
    expect(sharedDirFault(base)).toContain('has no sticky bit');
  });

  it('refuses a directory of another user, but not of root', () => {
    expect(sharedDirFault('/usr')).toBeUndefined();
    const foreign = foreignDir();
    if (foreign !== '/usr') expect(sharedDirFault(foreign)).toContain('is user 65534');
  });
});
