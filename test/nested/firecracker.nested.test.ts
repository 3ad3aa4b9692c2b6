/** Linux guests under KVM in Firecracker, jailed on cgroup v2: what no emulation here shows. */
import { describe } from 'vitest';
import { requiresNestedInFull, useNestedHost } from '../support/nested.ts';
import { nestedDrivers } from '../support/nested-drivers.ts';
import { FIRECRACKER, nestedCases } from '../support/nested-vmms.ts';

requiresNestedInFull().describe('nested host', (parts) => {
  const world = useNestedHost(parts, 'firecracker');

  describe('Firecracker', () => nestedCases(world, FIRECRACKER, 'all'));
  describe('drivers', () => nestedDrivers(world));
});
