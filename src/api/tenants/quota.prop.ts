import fc from 'fast-check';
import { expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { MIB } from '../../base/units.ts';
import type { SandboxInfo } from '../../sandbox/contract/control.ts';
import type { StartReservation } from '../../sandbox/start/start-gate.ts';
import { TenantQuotas } from './quota.ts';
import { NO_QUOTAS } from './settings.ts';

const SANDBOXES = 4;
const MEMORY_MIB = 2000;
/** The more memory, the smaller the disk, so that either quota refuses. */
const diskOf = (memoryMib: number): number => 1000 - memoryMib;
const DISK_MIB = 1500;
const step = fc.record({
  kind: fc.constantFrom('ask', 'ask', 'run', 'fail', 'pause', 'resume', 'end'),
  tenant: fc.constantFrom('a', 'b'),
  memoryMib: fc.integer({ min: 1, max: 900 }),
  at: fc.nat({ max: 10 }),
});

it('no tenant exceeds its quotas, whatever starts, fails, pauses and ends in any order', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 100 }), async (steps) => {
      const limits = { ...NO_QUOTAS, sandboxes: SANDBOXES, memoryMib: MEMORY_MIB, storageBytes: DISK_MIB * MIB };
      const quotas = new TenantQuotas({ of: () => limits }, new FakeClock());
      let change: (info: SandboxInfo) => void = () => undefined;
      const onChange = (listener: typeof change) => {
        change = listener;
        return () => undefined;
      };
      await quotas.watch({ list: async () => [], onChange });
      type One = { id: string; tenant: string; memoryMib: number; onDisk: boolean };
      const asked: (One & { reservation: StartReservation; resumed: boolean })[] = [];
      let live: One[] = [];
      let ids = 0;
      const tell = (one: One, status: SandboxInfo['status']): void => {
        const { id, tenant, memoryMib, onDisk } = one;
        const pausedTo = onDisk ? 'disk' : null;
        const rest = { status, pausedTo, memoryMaxMib: null, annotations: { tenant } };
        change({ id, memoryMib, diskMib: diskOf(memoryMib), ...rest } as unknown as SandboxInfo);
      };
      const ask = (one: One, resumed: boolean): void => {
        try {
          const { tenant, memoryMib, id } = one;
          const start = {
            annotations: { tenant },
            id,
            cpus: 1,
            memoryMib,
            diskMib: diskOf(memoryMib),
            resumes: resumed ? id : null,
          };
          asked.push({ ...one, reservation: quotas.admit(start), resumed });
        } catch {
          expect(quotas.useOf(one.tenant).sandboxes).toBeLessThanOrEqual(SANDBOXES);
        }
      };
      for (const { kind, tenant, memoryMib, at } of steps) {
        const running = live[at % Math.max(1, live.length)];
        if (kind === 'ask') ask({ id: `s${ids++}`, tenant, memoryMib, onDisk: false }, false);
        if (kind === 'run' || kind === 'fail') {
          const [one] = asked.splice(at % Math.max(1, asked.length), 1);
          if (one === undefined) continue;
          if (kind === 'fail') {
            one.reservation.release();
          } else {
            one.reservation.runsAs(one.id);
            live = [...live.filter(({ id }) => id !== one.id), { ...one, onDisk: false }];
            tell({ ...one, onDisk: false }, 'running');
          }
        }
        const isBusy = asked.some(({ id }) => id === running?.id);
        if (running === undefined || isBusy) continue;
        if (kind === 'pause') {
          running.onDisk = true;
          tell(running, 'paused');
        }
        if (kind === 'resume' && running.onDisk) ask(running, true);
        if (kind === 'end') {
          live = live.filter((one) => one !== running);
          tell(running, 'ended');
        }
        for (const each of ['a', 'b']) {
          const own = live.filter((one) => one.tenant === each);
          const starting = asked.filter((one) => one.tenant === each);
          const count = own.length + starting.filter(({ resumed }) => !resumed).length;
          const counted = [...own.filter(({ onDisk }) => !onDisk), ...starting];
          const mib = counted.reduce((sum, one) => sum + one.memoryMib, 0);
          const disks = counted.reduce((sum, one) => sum + diskOf(one.memoryMib), 0);
          expect(quotas.useOf(each)).toMatchObject({ sandboxes: count, memoryMib: mib });
          expect(count).toBeLessThanOrEqual(SANDBOXES);
          expect(mib).toBeLessThanOrEqual(MEMORY_MIB);
          expect(quotas.useOf(each).storage.disks).toBe(disks * MIB);
          expect(disks).toBeLessThanOrEqual(DISK_MIB);
        }
      }
    }),
  );
});
