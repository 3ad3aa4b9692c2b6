/** Refused and logged system calls of VMMs, as the real kernel reports them. Needs root and gcc. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Injector } from '../../prove/jail/inject.ts';
import { openVmms } from '../../prove/jail/open-vmms.ts';
import { systemClock } from '../../src/base/clock.ts';
import { readConfig } from '../../src/base/config.ts';
import { silentLog } from '../../src/base/log.ts';
import { MetricRegistry } from '../../src/base/metrics.ts';
import { openRecords, VmmViolations } from '../../src/host/probes/vmm-violations.ts';
import { makeFirecracker } from '../../src/host/runtime/firecracker/firecracker.ts';
import { VmBench } from '../support/driver-parity.ts';
import { firecrackerFiles } from '../support/firecracker.ts';
import { requires } from '../support/requires.ts';

const PATIENT = { timeout: 60_000 };
const UNSHARE = { name: 'unshare', number: 272, args: [0] };

function whyNot(): string | null {
  if (process.getuid?.() !== 0) return 'it needs root';
  const source = openRecords();
  if (typeof source === 'string') return source;
  source.close();
  return null;
}

requires('seccomp-records', whyNot() ?? true).describe('VmmViolations', () => {
  let home: string;
  let violations: VmmViolations;
  let registry: MetricRegistry;
  beforeEach(() => {
    home = mkdtempSync(join(tmpdir(), 'nv-home-'));
  });
  afterEach(() => {
    violations.close();
    rmSync(home, { recursive: true, force: true });
  });

  function listen(vmm: string): void {
    const source = openRecords();
    if (typeof source === 'string') throw new Error(source);
    violations = new VmmViolations({ clock: systemClock, log: silentLog, vmm, source });
    registry = new MetricRegistry();
    registry.add(...violations.metrics);
  }
  const context = () => ({ config: { ...readConfig({}), home, vmm: 'qemu' as const }, log: silentLog });

  it('a call that is only logged is counted, and the VMM continues', async () => {
    listen('qemu');
    await using injector = await Injector.make();
    await using vmms = await openVmms({ ...context(), onlyLogs: true });
    const vmm = await vmms.jailed();
    const watch = violations.watch(vmm.pid);
    expect(await injector.call(vmm.pid, UNSHARE)).toBe('returned 0');
    const line = 'neurovisor_seccomp_violations_total{vmm="qemu",mode="log"} 1\n';
    await expect.poll(() => registry.text(), PATIENT).toContain(line);
    await vmm.end();
    expect(await watch.settle(undefined)).toMatchObject({
      count: 1,
      syscall: 272,
      name: 'unshare',
      action: 'logged',
      address: expect.stringMatching(/^0x[0-9a-f]+$/),
    });
  });

  it('a call that kills QEMU is named from the kernel’s report', async () => {
    listen('qemu');
    await using injector = await Injector.make();
    await using vmms = await openVmms(context());
    const vmm = await vmms.jailed();
    const watch = violations.watch(vmm.pid);
    expect(await injector.call(vmm.pid, UNSHARE)).toBe('killed by 31');
    const exit = { cause: 'vmm-crashed', exitCode: null, signal: 'SIGSYS', detail: '' } as const;
    expect(await watch.settle(exit)).toMatchObject({ name: 'unshare', action: 'refused' });
    expect(await registry.text()).toContain('{vmm="qemu",mode="enforce"} 1\n');
  });

  const firecracker = firecrackerFiles();
  requires('firecracker', firecracker).it('a call that kills Firecracker is named from its own log', async () => {
    if (typeof firecracker === 'string') throw new Error(firecracker);
    listen('firecracker');
    await using injector = await Injector.make();
    const { driver, confinement } = await makeFirecracker({
      config: { ...firecracker, jail: 'enforce', jailUids: null, firecrackerFilter: 'builtin' },
      home: { cacheDir: join(home, 'cache'), runDir: join(home, 'run') },
      log: silentLog,
      acceptsGaps: true,
    });
    const bench = new VmBench(driver, firecracker);
    try {
      const vm = await bench.boot({ memoryMib: 64 });
      const watch = violations.watch(vm.pid ?? 0);
      expect(await injector.call(vm.pid ?? 0, UNSHARE)).toBe('exited 148');
      const exit = await vm.exited;
      expect(exit).toMatchObject({ cause: 'vmm-crashed', exitCode: 148, refusedSyscall: 272 });
      expect(await watch.settle(exit)).toMatchObject({ count: 1, name: 'unshare' });
      expect(await registry.text()).toContain('{vmm="firecracker",mode="enforce"} 1\n');
    } finally {
      await bench.close();
      await confinement.close();
    }
  });
});
