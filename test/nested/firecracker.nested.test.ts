/** Linux guests under KVM in Firecracker, jailed on cgroup v2: what no emulation here shows. */

import { describe } from 'vitest';
import { isFullRun } from '../support/full-run.ts';
import { requiresNested, useNestedHost } from '../support/nested.ts';
import { nestedDrivers } from '../support/nested-drivers.ts';
import { nestedCases } from '../support/nested-vmms.ts';

requiresNested().describe('nested host', (parts) => {
  const world = useNestedHost(parts, 'firecracker');

  describe('Firecracker', () => {
    nestedCases(world, {
      vmm: 'firecracker',
      version: /^Firecracker 1\.\d+\.\d+/,
      program: 'firecracker',
      pidsMax: 81,
      isWhole: true,
    });
  });
  if (isFullRun()) describe('drivers', () => nestedDrivers(world));
});
