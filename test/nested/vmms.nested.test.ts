/** Linux guests under KVM, in Firecracker and QEMU, jailed on cgroup v2: what no emulation here shows. */
import { describe } from 'vitest';
import { isFullRun } from '../support/full-run.ts';
import { requiresNested, useNestedHost } from '../support/nested.ts';
import { nestedDrivers } from '../support/nested-drivers.ts';
import { nestedHosts } from '../support/nested-hosts.ts';
import { nestedNetworkProofs, nestedProofs } from '../support/nested-proofs.ts';
import { nestedCases } from '../support/nested-vmms.ts';

const isFull = isFullRun();

requiresNested().describe('nested host', (parts) => {
  const world = useNestedHost(parts);

  describe('Firecracker', () => {
    nestedCases(world, {
      vmm: 'firecracker',
      version: /^Firecracker 1\.\d+\.\d+/,
      program: 'firecracker',
      pidsMax: 81,
      isWhole: true,
    });
  });

  describe('QEMU', () => {
    nestedCases(world, {
      vmm: 'qemu',
      version: /^QEMU .*KVM/,
      program: 'qemu-system-x86',
      pidsMax: 81,
      // The others run in emulation in each run.
      isWhole: isFull,
    });
  });

  describe('proofs of Firecracker', () => nestedProofs(world, 'firecracker', isFull));
  describe('proofs of QEMU', () => nestedProofs(world, 'qemu', isFull));
  describe('hosts', () => nestedHosts(world));
  if (!isFull) return;
  describe('network proofs', () => nestedNetworkProofs(world));
  describe('drivers', () => nestedDrivers(world));
});
