/** The drivers' contract for network cards. */
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { closeFd, createMemFd } from '../../src/sys/fd.ts';
import { ask, type VmBench } from './driver-parity.ts';
import { requiresRoot } from './requires.ts';
import { tapElsewhere } from './tap-elsewhere.ts';

const MAC = 'aa:fc:00:00:00:01';
const OTHER_MAC = 'aa:fc:00:00:00:02';

export function nicCases(bench: () => VmBench): void {
  const tap = (): Promise<number> =>
    bench().driver.accelerator === 'fake' ? Promise.resolve(createMemFd('tap', 0)) : tapElsewhere();
  const using = async (body: (tapFd: number) => Promise<void>): Promise<void> => {
    const tapFd = await tap();
    try {
      await body(tapFd);
    } finally {
      closeFd(tapFd);
    }
  };
  // A TAP needs root.
  requiresRoot().describe('network card', () => {
    it('a VM starts with a card, is saved without it, continues with it, loses it and gets another', () =>
      using(async (tapFd) => {
        expect(bench().driver.capabilities.hotplugNic).toBe(true);
        const plain = bench().spec();
        const memoryFd = bench().memory(plain);
        const vm = await bench().boot({ ...plain, memoryFd, nic: { tapFd, mac: MAC } });
        await vm.vsockHotplug?.unplugVsock();
        const early = vm.saveState?.(join(plain.dir, 'early'));
        await expect(early).rejects.toMatchObject({ code: 'vm_unsupported' });
        await vm.nicHotplug?.withdrawNic();
        await vm.saveState?.(join(plain.dir, 'state'));
        await vm.resume();
        await vm.vsockHotplug?.plugVsock(200);
        await vm.nicHotplug?.returnNic();
        await expect.poll(() => ask(vm, 'PRINT one').catch(String)).toBe('done');
        const second = vm.nicHotplug?.plugNic({ tapFd, mac: OTHER_MAC });
        await expect(second).rejects.toMatchObject({ code: 'vm_unsupported' });
        await vm.nicHotplug?.unplugNic();
        await vm.nicHotplug?.unplugNic();
        await vm.nicHotplug?.plugNic({ tapFd, mac: OTHER_MAC });
        expect(await ask(vm, 'PRINT two')).toBe('done');
      }));

    it('plugNic: a descriptor that is no TAP is refused by a real VMM, and the VM runs on', async () => {
      const vm = await bench().boot();
      // The fake driver takes any descriptor.
      if (bench().driver.accelerator === 'fake') {
        await using(async (tapFd) => void (await vm.nicHotplug?.plugNic({ tapFd, mac: MAC })));
        return;
      }
      const wrong = createMemFd('no tap', 0);
      const plug = vm.nicHotplug?.plugNic({ tapFd: wrong, mac: MAC });
      await expect(plug).rejects.toMatchObject({ code: 'vmm_command_failed' });
      closeFd(wrong);
      expect(await ask(vm, 'PRINT still here')).toBe('done');
      await using(async (tapFd) => void (await vm.nicHotplug?.plugNic({ tapFd, mac: MAC })));
    });

    it.each([
      { tapFd: 2, mac: MAC },
      { tapFd: 9, mac: 'ab:fc:00:00:00:01' },
      { tapFd: 9, mac: 'aa:fc:00:00:00:01,script=x' },
    ])('start: %j is refused', async (nic) => {
      const start = bench().driver.start(bench().spec({ nic }));
      await expect(start).rejects.toMatchObject({ code: 'vm_spec_invalid' });
    });
  });
}
