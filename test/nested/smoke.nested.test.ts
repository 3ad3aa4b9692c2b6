/** One thread through Firecracker and QEMU under KVM, on one nested host: what each whole run shows of both. */
import { describe } from 'vitest';
import { requiresNested, useNestedHost } from '../support/nested.ts';
import { FIRECRACKER, nestedCases, QEMU } from '../support/nested-vmms.ts';

requiresNested().describe('nested host', (parts) => {
  const world = useNestedHost(parts, 'smoke');

  describe('Firecracker', () => nestedCases(world, FIRECRACKER, 'smoke'));
  describe('QEMU', () => nestedCases(world, QEMU, 'smoke'));
});
