import { describe, expect, it } from 'vitest';
import { parseVersion, quirksOf, versionProblem } from './versions.ts';

const version = (text: string) => {
  const parsed = parseVersion(`Firecracker v${text}`);
  if (parsed === undefined) throw new Error(`no version: ${text}`);
  return parsed;
};

describe('parseVersion', () => {
  it('parseVersion: reads the first line only', () => {
    const output = 'Firecracker v1.16.1\n\n2026-01-01T00:00:00 [anonymous-instance:main] exiting\n';
    expect(parseVersion(output)).toEqual({ major: 1, minor: 16, patch: 1, text: '1.16.1' });
    expect(parseVersion('Firecracker v1.17.0-dev\n')?.text).toBe('1.17.0-dev');
    expect(parseVersion('Jailer v1.16.1\n', 'Jailer')?.minor).toBe(16);
  });
  it.each([
    '',
    'Jailer v1.16.1',
    'firecracker v1.16.1',
    '\nFirecracker v1.16.1',
    'Firecracker v1.16',
    'Firecracker v1.16.1 $(reboot)',
    `Firecracker v1.16.${'1'.repeat(9)}`,
  ])('parseVersion: %j is none', (output) => {
    expect(parseVersion(output)).toBeUndefined();
  });
});

describe('versionProblem', () => {
  it.each(['1.16.1', '1.16.2', '1.17.0', '1.17.0-dev', '1.100.0'])(
    'versionProblem: %s is fit',
    (text) => {
      expect(versionProblem(version(text), false)).toBeUndefined();
    },
  );
  it.each(['1.16.0', '1.15.1', '1.12.1', '1.9.9'])(
    'versionProblem: %s is too old, but for those who allow it',
    (text) => {
      expect(versionProblem(version(text), false)).toContain('older than 1.16.1');
      expect(versionProblem(version(text), true)).toBeUndefined();
    },
  );
  it.each(['1.13.0', '1.13.1', '1.14.0', '1.14.3', '1.15.0'])(
    'versionProblem: %s has a hole and is refused to everybody (S1)',
    (text) => {
      for (const allowOlder of [false, true]) {
        expect(versionProblem(version(text), allowOlder)).toContain('CVE-2026-5747');
      }
    },
  );
  it.each(['1.14.4', '1.15.1', '1.12.99'])('versionProblem: %s is not vulnerable', (text) => {
    expect(versionProblem(version(text), true)).toBeUndefined();
  });
  it.each(['0.25.0', '2.0.0'])('versionProblem: %s is not supported', (text) => {
    expect(versionProblem(version(text), true)).toContain('only 1.x is');
  });
});

describe('quirksOf', () => {
  it.each([
    ['1.12.1', false, false, true, 'enable_diff_snapshots', 'bincode'],
    ['1.14.4', false, false, true, 'track_dirty_pages', 'bincode'],
    ['1.15.1', false, false, true, 'track_dirty_pages', 'bitcode'],
    ['1.16.0', true, true, false, 'track_dirty_pages', 'bitcode'],
    ['1.16.1', true, true, false, 'track_dirty_pages', 'bitcode'],
    ['1.17.0', false, true, false, 'track_dirty_pages', 'bitcode'],
  ] as const)('quirksOf: %s', (text, pause, override, loses, key, format) => {
    expect(quirksOf(version(text))).toEqual({
      pauseTakesSnapshot: pause,
      overridesVsock: override,
      losesFirstConnection: loses,
      trackDirtyPagesKey: key,
      addsPciOff: override,
      seccompFormat: format,
    });
  });
});
