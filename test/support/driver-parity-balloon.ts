/** The drivers' contract for the memory of a running guest. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Vm } from '../../src/machine/vmm/driver.ts';
import { ask, type VmBench } from './driver-parity.ts';

const RAM_MIB = 192;
const BALLOON_MIB = 64;

export function balloonCases(bench: () => VmBench): void {
  describe('balloon', () => {
    it('memoryMib: is less than the RAM from boot; setMemory: grows and shrinks it', async () => {
      const vm = await bench().boot({ memoryMib: RAM_MIB, balloonMib: BALLOON_MIB });
      for (const mib of [RAM_MIB - BALLOON_MIB, RAM_MIB, 100]) {
        if (mib !== RAM_MIB - BALLOON_MIB) await vm.balloon?.setMemory(mib);
        await hasMemory(vm, mib);
      }
      await expect(vm.balloon?.setMemory(RAM_MIB + 1)).rejects.toMatchObject({ code: 'vm_spec_invalid' });
    });

    it('saveState: a clone has the memory of the VM at that moment, whatever balloon it asks for, and grows', async () => {
      const plain = bench().spec({ memoryMib: RAM_MIB, balloonMib: BALLOON_MIB });
      const spec = { ...plain, memoryFd: bench().memory(plain) };
      const vm = await bench().boot(spec);
      await vm.balloon?.setMemory(RAM_MIB - 16);
      await hasMemory(vm, RAM_MIB - 16);
      await vm.vsockHotplug?.unplugVsock();
      const snapshot = await vm.saveState?.(join(spec.dir, 'state'));
      if (snapshot === undefined) throw new Error('the driver takes no snapshots');
      await vm.kill();
      const clone = await bench().clone({ spec, snapshot }, { memoryMib: RAM_MIB, balloonMib: 16 });
      await hasMemory(clone, RAM_MIB - 16);
      await clone.balloon?.setMemory(RAM_MIB);
      await hasMemory(clone, RAM_MIB);
      const without = bench().clone({ spec, snapshot }, { memoryMib: RAM_MIB });
      await expect(without).rejects.toMatchObject({ code: 'snapshot_refused' });
    });

    it('setMemory: fails with vm_gone once the VM has ended', async () => {
      const vm = await bench().boot({ memoryMib: RAM_MIB, balloonMib: BALLOON_MIB });
      await vm.kill();
      await expect(vm.balloon?.setMemory(RAM_MIB)).rejects.toMatchObject({ code: 'vm_gone' });
    });
  });
}

/** As seen by the balloon and, unless the guest is a scripted one, by its kernel. */
async function hasMemory(vm: Vm, mib: number): Promise<void> {
  await expect.poll(() => vm.balloon?.memoryMib(), { timeout: 60_000 }).toBe(mib);
  if (vm.pid === null) return;
  const told = Number(await ask(vm, 'INFO memory')) / 2 ** 20;
  expect(told).toBeLessThan(mib);
  expect(told).toBeGreaterThan(mib - KERNEL_RESERVE_MIB);
}

/** Maximum memory that Linux reserves for itself. */
const KERNEL_RESERVE_MIB = 40;
