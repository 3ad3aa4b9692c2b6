/** Proofs under KVM with either VMM, and hosts of other kinds. */
import { describe } from 'vitest';
import { requiresNestedInFull, useNestedHost } from '../support/nested.ts';
import { nestedHosts } from '../support/nested-hosts.ts';
import { nestedNetworkProofs, nestedProofs } from '../support/nested-proofs.ts';

requiresNestedInFull().describe('nested host', (parts) => {
  const world = useNestedHost(parts, 'hosts');

  describe('proofs of Firecracker', () => nestedProofs(world, 'firecracker'));
  describe('proofs of QEMU', () => nestedProofs(world, 'qemu'));
  describe('hosts', () => nestedHosts(world));
  describe('network proofs', () => nestedNetworkProofs(world));
});
