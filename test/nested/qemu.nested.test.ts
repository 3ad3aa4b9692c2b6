/** Linux guests under KVM in QEMU, jailed on cgroup v2: what no emulation here shows. */
import { describe } from 'vitest';
import { isFullRun } from '../support/full-run.ts';
import { requiresNested, useNestedHost } from '../support/nested.ts';
import { nestedCases } from '../support/nested-vmms.ts';

requiresNested().describe('nested host', (parts) => {
  const world = useNestedHost(parts, 'qemu');

  describe('QEMU', () => {
    nestedCases(world, {
      vmm: 'qemu',
      version: /^QEMU .*KVM/,
      program: 'qemu-system-x86',
      pidsMax: 81,
      // The others run in emulation in each run.
      isWhole: isFullRun(),
    });
  });
});
