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
  ])('parseVersion: refuses %j', (output) => {
    expect(parseVersion(output)).toBeUndefined();
  });
});

describe('versionProblem', () => {
  it.each(['1.16.1', '1.16.2', '1.17.0', '1.17.0-dev', '1.100.0'])('versionProblem: accepts %s', (text) => {
    expect(versionProblem(version(text))).toBeUndefined();
  });
  it.each(['1.16.0', '1.15.1', '1.15.0', '1.14.3', '1.13.0', '1.12.1', '1.9.9'])(
    'versionProblem: refuses %s as too old, in some cases because of a vulnerability (S1)',
    (text) => {
      expect(versionProblem(version(text))).toContain('older than 1.16.1');
    },
  );
  it.each(['0.25.0', '2.0.0'])('versionProblem: refuses %s as unsupported', (text) => {
    expect(versionProblem(version(text))).toContain('only 1.x is');
  });
});

describe('quirksOf', () => {
  it.each([
    ['1.16.1', true],
    ['1.16.7', true],
    ['1.17.0', false],
  ])('quirksOf: %s', (text, pauseTakesSnapshot) => {
    expect(quirksOf(version(text))).toEqual({ pauseTakesSnapshot });
  });
});
