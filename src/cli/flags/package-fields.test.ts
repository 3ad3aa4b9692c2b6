import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { packageChange, packageOptions, templateAge } from './package-fields.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-lock-'));
});
afterAll(() => rmSync(dir, { recursive: true }));

describe('packageOptions', () => {
  it('without --packages: no field, so that no sandbox may fetch anything', () => {
    expect(packageOptions({})).toEqual({});
    expect(packageOptions({ packages: [], packagesAllow: [] })).toEqual({});
  });

  it('a minimum age alone: nothing may be fetched, but it holds for what --with installs', () => {
    expect(packageOptions({ packagesMinAge: '7d' })).toEqual({ packages: { ecosystems: [], minAgeMs: 604_800_000 } });
    expect(templateAge({ packagesMinAge: '7d' })).toEqual({ packagesMinAgeMs: 604_800_000 });
    expect(templateAge({})).toEqual({});
    // A change of a running sandbox would take its packages away.
    expect(() => packageChange({ packagesMinAge: '7d' })).toThrow('needs --packages');
  });

  it('lists are split at commas, over several options', () => {
    expect(
      packageOptions({
        packages: ['pip,npm', 'go'],
        packagesAllow: ['numpy,npm:@types/*'],
        packagesDeny: ['torch'],
        packagesMinAge: '7d',
      }),
    ).toEqual({
      packages: {
        ecosystems: ['pip', 'npm', 'go'],
        allow: ['numpy', 'npm:@types/*'],
        deny: ['torch'],
        minAgeMs: 604_800_000,
      },
    });
  });

  it('a lock file is read here: the daemon may be on another machine', () => {
    const path = join(dir, 'requirements.txt');
    writeFileSync(path, `six==1.16 --hash=sha256:${'a'.repeat(64)}\n`);
    expect(packageOptions({ packages: ['pip'], packagesLock: [path] }).packages?.lock).toEqual([
      `pip:six sha256:${'a'.repeat(64)}`,
    ]);
  });

  it.each([
    [{ packagesAllow: ['numpy'] }, 'need --packages'],
    [{ packages: ['pypi'] }, 'invalid kind of packages "pypi"'],
    [{ packages: ['pip'], packagesDeny: ['a b'] }, 'invalid package name "a b"'],
    [{ packages: ['pip'], packagesMinAge: 'soon' }, '--packages-min-age'],
    [{ packages: ['pip'], packagesLock: ['/nowhere/x'] }, '--packages-lock /nowhere/x'],
  ])('%j is a usage error', (flags, message) => {
    expect(() => packageOptions(flags)).toThrow(message);
  });
});
