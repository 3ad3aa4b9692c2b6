/** Linux guests under KVM, in Firecracker, jailed on cgroup v2: what no emulation here shows. */
import { describe } from 'vitest';
import { requiresNested, useNestedHost } from '../support/nested.ts';
import { nestedCases } from '../support/nested-suite.ts';

requiresNested().describe('nested host', (parts) => {
  const world = useNestedHost(parts);

  describe('Firecracker', () =>
    nestedCases(world, {
      vmm: 'firecracker',
      version: /^Firecracker 1\.\d+\.\d+/,
      program: 'firecracker',
      pidsMax: 81,
    }));

  describe('QEMU', () =>
    nestedCases(world, {
      vmm: 'qemu',
      version: /^QEMU .*KVM/,
      program: 'qemu-system-x86',
      pidsMax: 81,
    }));
});
