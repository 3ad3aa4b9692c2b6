/** Linux guests under KVM in QEMU, jailed on cgroup v2: what no emulation here shows. */
import { describe } from 'vitest';
import { requiresNestedInFull, useNestedHost } from '../support/nested.ts';
import { nestedCases, QEMU } from '../support/nested-vmms.ts';

requiresNestedInFull().describe('nested host', (parts) => {
  const world = useNestedHost(parts, 'qemu');

  describe('QEMU', () => nestedCases(world, QEMU, 'all'));
});
