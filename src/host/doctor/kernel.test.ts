import { expect, it } from 'vitest';
import { judgeKernel } from './kernel.ts';

it('judgeKernel: names the kernel in use, its source and compiler, and how to get the other', () => {
  const kernel = {
    source: { package: 'linux-source-6.12', version: '6.12.1-1', sha256: '' },
    kernelVersion: '6.12.1',
    tools: { gcc: 'gcc (Debian 12) 12.2.0', ld: 'GNU ld' },
  };
  expect(judgeKernel({ ...kernel, origin: 'prebuilt' }).detail).toBe(
    'Linux 6.12.1, prebuilt from linux-source-6.12 6.12.1-1 with gcc (Debian 12) 12.2.0; `neurovisor setup --build-kernel` builds it here',
  );
  expect(judgeKernel({ ...kernel, origin: 'built here' }).detail).toMatch(
    /^Linux 6\.12\.1, built here .*--no-build-kernel/,
  );
});
