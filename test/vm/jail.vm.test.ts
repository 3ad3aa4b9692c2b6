/** The QEMU driver in the jail, enforced: the same contract as without, and what a compromised VMM can not do. */
import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { Injector } from '../../prove/jail/inject.ts';
import { prove } from '../../prove/prove.ts';
import { copyOut } from '../../src/artifacts/transfer/copy-out.ts';
import { systemClock } from '../../src/base/clock.ts';
import { readConfig } from '../../src/base/config.ts';
import { silentLog } from '../../src/base/log.ts';
import { confine, type QemuConfinement } from '../../src/host/runtime/jail.ts';
import type { Vm } from '../../src/machine/vmm/driver.ts';
import { type Launch, launchDirect } from '../../src/machine/vmm/launch.ts';
import { createQemuDriver } from '../../src/machine/vmm/qemu/driver.ts';
import { createVsockHost } from '../../src/machine/vsock/host.ts';
import { ask, driverParity, VmBench } from '../support/driver-parity.ts';
import { requiresEchoGuest } from '../support/echo-image.ts';
import { requiresRoot } from '../support/requires.ts';

const BINARY = 'qemu-system-x86_64';

requiresEchoGuest().describe('jailed QEMU', (files) => {
  const vsock = createVsockHost({ log: silentLog });
  let cacheDir: string;
  let jail: Promise<QemuConfinement> | undefined;
  const makeDriver = async (launch?: Launch) => {
    cacheDir ??= await mkdtemp(join(tmpdir(), 'nv-jail-home-'));
    jail ??= confine({
      config: { jail: 'enforce', jailUids: null },
      home: { cacheDir },
      log: silentLog,
      binary: BINARY,
      acceptsGaps: true,
    });
    return await createQemuDriver({
      ...({ accelerator: 'tcg', binary: BINARY, clock: systemClock, log: silentLog } as const),
      attachVsock: (spec) => vsock.attach(spec),
      launch: launch ?? (await jail).launch,
      ownFilter: launch === undefined,
    });
  };
  afterAll(async () => {
    await vsock.close();
    await (await jail)?.close();
    await rm(cacheDir, { recursive: true });
  });

  driverParity(makeDriver, async () => files, ['mapped']);

  requiresRoot().describe('compromised VMM', () => {
    let injector: Injector;
    let jailed: VmBench;
    let free: VmBench;
    beforeAll(async () => {
      injector = await Injector.make();
    });
    afterAll(() => injector[Symbol.asyncDispose]());
    beforeEach(async () => {
      jailed = new VmBench(await makeDriver(), files);
      free = new VmBench(await makeDriver(launchDirect), files);
    });
    afterEach(() => Promise.all([jailed.close(), free.close()]));
    const pidOf = (vm: Vm): number => Number(vm.pid);

    it('threads: each has both filters, no new privileges and no capability, also disk threads at work', async () => {
      const vm = await jailed.boot({ cpus: 2 });
      await ask(vm, 'INFO memory');
      const tasks = readdirSync(`/proc/${vm.pid}/task`);
      expect(tasks.length).toBeGreaterThan(3);
      for (const task of tasks) {
        const status = readFileSync(`/proc/${vm.pid}/task/${task}/status`, 'latin1');
        expect(status).toMatch(/^Seccomp:\s2$/m);
        expect(status).toMatch(/^Seccomp_filters:\s2$/m);
        expect(status).toMatch(/^NoNewPrivs:\s1$/m);
        for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) {
          expect(status).toMatch(new RegExp(`^${set}:\\s0+$`, 'm'));
        }
        expect(status).not.toMatch(/^[UG]id:.*\s0\b/m);
      }
    });

    it.each([
      ['execve', { name: 'execve', number: 59, args: ['@/usr/bin/qemu-system-x86_64', 0, 0] }],
      ['fork', { name: 'fork', number: 57 }],
    ] as const)('%s: ends the VM as a crash; without the jail the call succeeds', async (_, call) => {
      const vm = await jailed.boot();
      expect(await injector.call(pidOf(vm), call)).toBe('killed by 31');
      expect(await vm.exited).toMatchObject({ cause: 'vmm-crashed', signal: 'SIGSYS' });
      const other = await free.boot();
      expect(await injector.call(pidOf(other), call)).toMatch(/^(executed|returned \d+)$/);
    });

    it('isAlive: false while the VMM is stopped by a signal', async () => {
      const vm = await jailed.boot();
      expect(vm.isAlive()).toBe(true);
      process.kill(pidOf(vm), 'SIGSTOP');
      await expect.poll(() => vm.isAlive()).toBe(false);
      process.kill(pidOf(vm), 'SIGCONT');
      await expect.poll(() => vm.isAlive()).toBe(true);
    });
  });
});

requiresRoot().describe('prove', () => {
  it.each([
    ['image', 'neither root of a guest nor its VMM changes the golden image', 10],
    ['io', 'a guest gets no more of its disks than its limits, and its VMM no more than its group', 9],
    ['ratelimit', 'a flooded channel keeps its limit, and its neighbor its round trips', 13],
    ['files', 'a guest that answers hostile names, links and listings harms nothing', 20],
    ['oom', 'OOM kills are announced, and endings have the right cause', 18],
    ['load', 'a VMM at work makes no call that its filter refuses', 12],
  ] as const)('%s: %s', async (name, _what, tries) => {
    const [proof] = await prove([name], {
      config: readConfig(process.env),
      log: silentLog,
      copyOut: async (guest, source, target) => void (await copyOut(guest, source, target)),
      // One round of everything.
      loadMs: 1,
      signal: new AbortController().signal,
    });
    expect(proof?.tried.filter(({ ok }) => !ok)).toEqual([]);
    expect(proof).toMatchObject({ name, holds: true });
    expect(proof?.tried.length).toBeGreaterThanOrEqual(tries);
  });
});
