import { expect, it } from 'vitest';
import { type Clock, FakeClock } from '../../base/clock.ts';
import { silentLog } from '../../base/log.ts';
import type { Guest, GuestStats } from '../../guest/guest.ts';
import type { SandboxInfo } from '../../sandbox/control.ts';
import type { E2bParts } from '../parts.ts';
import { MetricsHistory } from './metrics.ts';

it('MetricsHistory: asks the guest once a second, also after the wall clock was set back', async () => {
  const time = new FakeClock();
  let offMs = 0;
  const clock: Clock = {
    now: () => time.now(),
    wall: () => time.wall() + offMs,
    after: (ms, run) => time.after(ms, run),
  };
  const stats = { cpuCount: 1, uptimeMs: 1, cpuBusyMs: 0, memoryTotalBytes: 1 } as GuestStats;
  const guest = { stats: async () => stats } as unknown as Guest;
  const control = { onChange: () => () => undefined, guest: async () => guest };
  const history = new MetricsHistory({ control, clock, log: silentLog } as unknown as E2bParts);
  const info = { id: 'a', status: 'running' } as SandboxInfo;
  expect(await history.of(info)).toHaveLength(1);
  expect(await history.of(info)).toHaveLength(1);
  offMs = -3_600_000;
  time.advance(1000);
  expect(await history.of(info)).toHaveLength(2);
});
