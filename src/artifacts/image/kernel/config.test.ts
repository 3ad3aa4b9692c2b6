import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { PACKAGE_DIR } from '../../../base/package-dir.ts';
import { configViolations, parseDenied, parseKernelConfig, parseOptional } from './config.ts';

const kernelDir = join(PACKAGE_DIR, 'kernel');
const fragment = readFileSync(join(kernelDir, 'guest.config'), 'utf8');
const denied = readFileSync(join(kernelDir, 'deny.txt'), 'utf8');

describe('configViolations', () => {
  it('accepts a configuration with all required and no denied options', () => {
    const final = 'CONFIG_A=y\nCONFIG_N=32\nCONFIG_EXTRA=y\n# CONFIG_BAD is not set\n';
    expect(configViolations('CONFIG_A=y\nCONFIG_N=32\n', 'BAD reason', final)).toEqual([]);
  });
  it('names an option that Kconfig dropped', () => {
    expect(configViolations('CONFIG_A=y\nCONFIG_B=y\n', '', 'CONFIG_A=y\n')).toEqual([
      'CONFIG_B is not set instead of y',
    ]);
  });
  it('names an option with another value', () => {
    expect(configViolations('CONFIG_N=32\n', '', 'CONFIG_N=8\n')).toEqual(['CONFIG_N is 8 instead of 32']);
  });
  it('names a denied option that is on, built in or as a module', () => {
    expect(configViolations('', 'MODULES none\nFUSE_FS none', 'CONFIG_FUSE_FS=m\n')).toEqual([
      'CONFIG_FUSE_FS is m, but must be off',
    ]);
  });
  it('allows an optional option to be absent, but not to differ', () => {
    const asked = '# optional: V since 5.18\nCONFIG_V=y\n';
    expect(configViolations(asked, '', '')).toEqual([]);
    expect(configViolations(asked, '', 'CONFIG_V=m\n')).toHaveLength(1);
  });
});

describe('kernel/guest.config (R-G-2)', () => {
  it('has no option that kernel/deny.txt forbids', () => {
    const asked = parseKernelConfig(fragment);
    expect(parseDenied(denied).filter((name) => asked.has(name))).toEqual([]);
  });
  it('denies modules, debugfs, USB, sound, raw memory and pmem', () => {
    expect(parseDenied(denied)).toEqual(
      expect.arrayContaining(['MODULES', 'DEBUG_FS', 'USB_SUPPORT', 'SOUND', 'DEVMEM', 'VIRTIO_PMEM']),
    );
  });
  it('gives a reason for every block and every denied option', () => {
    const blocks = fragment.split(/\n\n/).filter((block) => block.includes('CONFIG_'));
    expect(blocks.filter((block) => !block.startsWith('# '))).toEqual([]);
    const lines = denied.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
    expect(lines.filter((line) => !/^\w+\s+\S/.test(line))).toEqual([]);
  });
  it('names no option twice', () => {
    const names = [...fragment.matchAll(/^CONFIG_(\w+)=/gm)].map((match) => match[1]);
    expect(new Set(names).size).toBe(names.length);
  });
  it('marks only its own options as optional', () => {
    const asked = parseKernelConfig(fragment);
    expect([...parseOptional(fragment)].filter((name) => !asked.has(name))).toEqual([]);
  });
});
