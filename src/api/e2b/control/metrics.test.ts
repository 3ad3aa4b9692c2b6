import { expect, it } from 'vitest';
import { type Clock, FakeClock } from '../../../base/clock.ts';
import { silentLog } from '../../../base/log.ts';
import type { Guest, GuestStats } from '../../../machine/guest/guest.ts';
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import type { E2bParts } from '../parts.ts';
import { MetricsHistory } from './metrics.ts';

const STATS = { cpuCount: 1, uptimeMs: 1, cpuBusyMs: 0, memoryTotalBytes: 1 } as GuestStats;
const info = { id: 'a', status: 'running' } as SandboxInfo;

function historyOf(clock: Clock, stats: () => Promise<GuestStats>): MetricsHistory {
  const guest = { stats } as unknown as Guest;
  const control = { onChange: () => () => undefined, guest: async () => guest };
  return new MetricsHistory({ control, clock, log: silentLog } as unknown as E2bParts);
}

it('MetricsHistory: asks the guest once a second, even after the wall clock was set back', async () => {
  const time = new FakeClock();
  let offMs = 0;
  const clock: Clock = {
    now: () => time.now(),
    wall: () => time.wall() + offMs,
    after: (ms, run) => time.after(ms, run),
  };
  const history = historyOf(clock, async () => STATS);
  expect(await history.of(info)).toHaveLength(1);
  expect(await history.of(info)).toHaveLength(1);
  offMs = -3_600_000;
  time.advance(1000);
  expect(await history.of(info)).toHaveLength(2);
});

it('MetricsHistory: concurrent requests ask the guest once', async () => {
  let asked = 0;
  const history = historyOf(new FakeClock(), async () => {
    asked += 1;
    return STATS;
  });
  const answers = await Promise.all([history.of(info), history.of(info), history.of(info)]);
  expect(asked).toBe(1);
  expect(answers.map((one) => one.length)).toEqual([1, 1, 1]);
});
