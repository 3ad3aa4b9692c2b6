/** The QEMU driver with real guests: parity, and what only a real machine can show. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { openCloneRam } from '../../src/host/runtime/ram/clone-ram.ts';
import type { VmmDriver } from '../../src/machine/vmm/driver.ts';
import { type Launch, launchDirect } from '../../src/machine/vmm/launch.ts';
import { createQemuDriver } from '../../src/machine/vmm/qemu/driver.ts';
import { createVsockHost } from '../../src/machine/vsock/host.ts';
import { ask, driverParity, VmBench } from '../support/driver-parity.ts';
import { requiresEchoGuest } from '../support/echo-image.ts';

requiresEchoGuest().describe('QEMU driver', (files) => {
  const vsock = createVsockHost({ log: silentLog });
  let driver: VmmDriver;
  const makeDriver = (options: Partial<Parameters<typeof createQemuDriver>[0]> = {}): Promise<VmmDriver> =>
    createQemuDriver({
      accelerator: 'tcg',
      binary: 'qemu-system-x86_64',
      attachVsock: (spec) => vsock.attach(spec),
      mapsMemoryMibMax: 1024,
      clock: systemClock,
      log: silentLog,
      ...options,
    });
  beforeAll(async () => {
    driver = await makeDriver();
  });
  afterAll(() => vsock.close());

  driverParity(
    () => makeDriver(),
    async () => files,
  );

  describe('machine', () => {
    let bench: VmBench;
    beforeEach(() => {
      bench = new VmBench(driver, files);
    });
    afterEach(() => bench.close());

    it('guest: has the requested size, no virtualization and a read-only root', async () => {
      const vm = await bench.boot({ cpus: 2, memoryMib: 200, bootArgs: ['loglevel=3'] });
      expect(await ask(vm, 'INFO cpus')).toBe('2');
      const memoryMib = Number(await ask(vm, 'INFO memory')) / 2 ** 20;
      expect(memoryMib).toBeLessThan(200);
      expect(memoryMib).toBeGreaterThan(200 - KERNEL_RESERVE_MIB);
      const flags = (await ask(vm, 'INFO cpuflags')).split(/\s+/);
      expect(flags).toContain('sse2');
      expect(flags.filter((flag) => /^(vmx|svm|avx)/.test(flag))).toEqual([]);
      expect(await ask(vm, 'INFO write-root')).toBe('refused');
      expect((await ask(vm, 'INFO cmdline')).replace(/tsc_early_khz=\d+ tsc=reliable lpj=\d+/, 'TSC').trim()).toBe(
        `${KERNEL_COMMAND_LINE} loglevel=3`,
      );
    });

    it('memory: in emulation QEMU gets no huge pages', async () => {
      const { pid } = await bench.boot();
      const smaps = readFileSync(`/proc/${pid}/smaps`, 'latin1');
      const sizes = [...smaps.matchAll(/^AnonHugePages: +(\d+) kB$/gm)].map(([, kib]) => Number(kib));
      expect(sizes.length).toBeGreaterThan(0);
      expect(Math.max(...sizes)).toBe(0);
    });

    it('start: QEMU starts again if it opens RAM that others map as another descriptor than expected', async () => {
      const spared: (number | undefined)[] = [];
      // One more descriptor than QEMU usually inherits, so that it opens all others at the next number.
      const launch: Launch = (plan) => {
        spared.push(plan.sparedFd);
        return launchDirect({ ...plan, stdio: [...plan.stdio, 'pipe'] });
      };
      const other = new VmBench(await makeDriver({ launch, sparesFiles: true }), files);
      await using opened = new AsyncDisposableStack();
      opened.defer(() => other.close());
      const plain = other.spec({ memoryMib: 192, balloonMib: 64 });
      const spec = { ...plain, memoryFd: other.memory(plain) };
      const vm = await other.boot(spec);
      await vm.vsockHotplug?.unplugVsock();
      const snapshot = await vm.saveState?.(join(spec.dir, 'state'));
      if (snapshot === undefined) throw new Error('no snapshot');
      const shared = openCloneRam(driver, join(spec.dir, 'run'));
      opened.defer(() => shared.close());
      const { open } = await shared.copy({ path: `/proc/self/fd/${spec.memoryFd}` });
      const { path: memoryPath, ready, close } = await open('us');
      opened.defer(close);
      await ready;
      for (let n = 0; n < 2; n += 1) {
        const size = { memoryMib: 192, balloonMib: 64 };
        const clone = await other.clone({ spec, snapshot: { ...snapshot, memoryPath } }, size);
        expect(await ask(clone, 'INFO cpus')).toBe('1');
      }
      const [boot, first, second, third, ...more] = spared;
      expect(boot).toBeUndefined();
      expect(second).toBe(Number(first) + 1);
      expect(third).toBe(second);
      expect(more).toEqual([]);
    });

    it('exited: a VMM killed by another process is a crash, and leaves nothing behind', async () => {
      const vm = await bench.boot();
      process.kill(Number(vm.pid), 'SIGKILL');
      expect(await vm.exited).toMatchObject({ cause: 'vmm-crashed', signal: 'SIGKILL' });
      expect(existsSync(vm.channelPath)).toBe(false);
      await expect(vm.pause()).rejects.toMatchObject({ code: 'vm_gone' });
    });

    it('exited: SIGTERM to the VMM is not a guest shutdown', async () => {
      const vm = await bench.boot();
      process.kill(Number(vm.pid), 'SIGTERM');
      expect(await vm.exited).toMatchObject({ cause: 'vmm-crashed', exitCode: 0 });
    });
  });
});

/** What Linux keeps of its memory for itself, at most. */
const KERNEL_RESERVE_MIB = 40;
const KERNEL_COMMAND_LINE =
  'console=ttyS0 quiet reboot=t panic=-1 acpi=noirq no_timer_check TSC root=/dev/vda rootfstype=erofs ro init=/sbin/neurovisor-init';
