import { describe, expect, it } from 'vitest';
import { chooseSource } from './source.ts';

describe('chooseSource', () => {
  it('prefers the series that the configuration was tested with', () => {
    const paths = ['/usr/src/linux-source-6.12.tar.xz', '/usr/src/linux-source-6.1.tar.xz'];
    expect(chooseSource(paths)).toBe('/usr/src/linux-source-6.12.tar.xz');
  });
  it('distinguishes 6.12 from 6.120, and otherwise picks the newest by number', () => {
    const paths = ['/a/linux-source-6.8.0.tar.bz2', '/a/linux-source-6.120.tar.xz'];
    expect(chooseSource(paths)).toBe('/a/linux-source-6.120.tar.xz');
    expect(chooseSource([...paths, '/a/linux-source-6.12.tar.xz'])).toBe('/a/linux-source-6.12.tar.xz');
  });
  it('returns undefined for no sources', () => {
    expect(chooseSource([])).toBeUndefined();
  });
});
