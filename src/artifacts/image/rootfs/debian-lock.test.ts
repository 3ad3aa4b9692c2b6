import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ImageError } from '../errors.ts';
import {
  aptPreferences,
  compareWithLock,
  describePackages,
  formatDebianLock,
  parseDebianLock,
  withDigests,
} from './debian-lock.ts';
import { GUEST_PACKAGES } from './recipe.ts';

const A = 'a'.repeat(64);
const B = 'b'.repeat(64);
const bash = { bash: { version: '5.2-1+b1', sha256: A } };

describe('parseDebianLock', () => {
  it('reads what formatDebianLock writes, and ignores comments', () => {
    const packages = { ...bash, 'libstdc++6': { version: '1:12~rc1', sha256: B } };
    expect(parseDebianLock(`# note\n${formatDebianLock(packages)}`)).toEqual(packages);
  });
  it.each([
    'bash',
    'bash=1',
    `bash=1 ${A}`,
    `bash=1 sha256:${'A'.repeat(64)}`,
    `bash=1\tPin: x sha256:${A}`,
    `../x=1 sha256:${A}`,
  ])('refuses a line without version or digest: %s', (line) => {
    expect(() => parseDebianLock(line)).toThrow(ImageError);
  });
  it('image/debian.lock contains every package that the image needs', () => {
    const path = join(import.meta.dirname, '../../../../image/debian.lock');
    const locked = parseDebianLock(readFileSync(path, 'utf8'));
    expect(Object.keys(locked)).toEqual(expect.arrayContaining([...Object.keys(GUEST_PACKAGES), 'libc6', 'dpkg']));
  });
});

it('aptPreferences prefers each locked version to any other', () => {
  expect(aptPreferences(bash)).toBe('Package: bash\nPin: version 5.2-1+b1\nPin-Priority: 1001\n');
});

describe('withDigests', () => {
  const stanza = (version: string, sha256: string): string =>
    `Package: bash\nVersion: ${version}\nMD5sum: 00\nSHA256: ${sha256}`;
  it('uses the digest of the installed version', () => {
    const records = `${stanza('6', B)}\n\n${stanza('5.2-1+b1', A)}\n`;
    expect(withDigests(new Map([['bash', '5.2-1+b1']]), records)).toEqual(bash);
  });
  it('refuses a package that mirrors have with two digests, since either may be installed', () => {
    const records = `${stanza('6', B)}\n\n${stanza('6', A)}\n`;
    expect(() => withDigests(new Map([['bash', '6']]), records)).toThrow('two SHA-256');
    const twice = `${stanza('6', A)}\n\n${stanza('6', A)}\n`;
    expect(withDigests(new Map([['bash', '6']]), twice)).toEqual({ bash: { version: '6', sha256: A } });
  });
  it('refuses a package that is in no index', () => {
    expect(() => withDigests(new Map([['bash', '7']]), stanza('6', B))).toThrow('in no index');
  });
});

describe('compareWithLock', () => {
  it('finds newer, missing and additional packages', () => {
    const lock = { ...bash, dash: { version: '1', sha256: A } };
    const installed = { bash: { version: '5.3', sha256: B }, zsh: { version: '2', sha256: A } };
    expect(compareWithLock(lock, installed)).toEqual([
      { name: 'bash', locked: '5.2-1+b1', installed: '5.3' },
      { name: 'dash', locked: '1', installed: null },
      { name: 'zsh', locked: null, installed: '2' },
    ]);
    expect(compareWithLock(lock, lock)).toEqual([]);
  });
  it('finds no difference without a lock', () => {
    expect(compareWithLock({}, bash)).toEqual([]);
  });
  it('refuses the locked version with another digest', () => {
    const forged = { bash: { version: '5.2-1+b1', sha256: B } };
    expect(() => compareWithLock(bash, forged)).toThrow(/bash 5\.2-1\+b1 has the SHA-256 bbb/);
  });
});

describe('describePackages', () => {
  it('an image as locked needs no remedy', () => {
    expect(describePackages({ packages: bash, lockDifferences: [] })).toEqual({
      description: '1 Debian packages as in image/debian.lock',
      remedy: null,
    });
  });
  it('names the first three differences', () => {
    const lockDifferences = [
      { name: 'a', locked: '1', installed: '2' },
      { name: 'b', locked: '1', installed: null },
      { name: 'c', locked: null, installed: '2' },
      { name: 'd', locked: '1', installed: '2' },
    ];
    const { description, remedy } = describePackages({ packages: bash, lockDifferences });
    expect(description).toBe(
      '4 of 1 Debian packages not as in image/debian.lock: a 2 instead of 1, b is missing, c 2 is additional, and 1 more',
    );
    expect(remedy).toContain('docs/troubleshooting.md');
  });
});
