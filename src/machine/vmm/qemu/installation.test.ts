import { describe, expect, it } from 'vitest';
import { parseQemuVersion } from './installation.ts';

describe('parseQemuVersion', () => {
  it.each([
    ['QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright', '7.2.22'],
    ['QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)', '10.0.2'],
    ['QEMU emulator version 6.2.0', '6.2.0'],
    ['qemu-img version 7.2.22', undefined],
    ['', undefined],
  ])('parseQemuVersion: parses %j as %j', (output, version) => {
    expect(parseQemuVersion(output)).toBe(version);
  });
});
