/** Proofs under KVM with either VMM, and hosts of other kinds. */
import { describe } from 'vitest';
import { isFullRun } from '../support/full-run.ts';
import { requiresNested, useNestedHost } from '../support/nested.ts';
import { nestedHosts } from '../support/nested-hosts.ts';
import { nestedNetworkProofs, nestedProofs } from '../support/nested-proofs.ts';

const isFull = isFullRun();

requiresNested().describe('nested host', (parts) => {
  const world = useNestedHost(parts, 'hosts');

  describe('proofs of Firecracker', () => nestedProofs(world, 'firecracker', isFull));
  describe('proofs of QEMU', () => nestedProofs(world, 'qemu', isFull));
  describe('hosts', () => nestedHosts(world));
  if (isFull) describe('network proofs', () => nestedNetworkProofs(world));
});
