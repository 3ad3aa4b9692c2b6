import { expect, it } from 'vitest';
import { FakeClock } from '../clock.ts';
import { LoopTime } from './loop-time.ts';

it('LoopTime: work that takes more than the limit closes it until that time has been refilled', () => {
  const clock = new FakeClock();
  let cpuMs = 1000;
  const time = new LoopTime({ size: 10, refillPerSecond: 100 }, clock, () => cpuMs);
  const work = (ms: number) => () => {
    cpuMs += ms;
    return 'done';
  };
  expect(time.run(work(9))).toBe('done');
  expect(time.isOpen).toBe(true);
  time.run(work(21));
  expect(time.isOpen).toBe(false);
  expect(time.waitMs).toBeCloseTo(210);
  clock.advance(200);
  expect(time.isOpen).toBe(false);
  clock.advance(11);
  expect(time.isOpen).toBe(true);
});

it('LoopTime: counts work that throws, and the CPU time of the thread by default', () => {
  const time = new LoopTime({ size: 5, refillPerSecond: 0.001 }, new FakeClock());
  const burn = (): never => {
    const until = process.threadCpuUsage().user + 10_000;
    while (process.threadCpuUsage().user < until);
    throw new Error('burned');
  };
  expect(() => time.run(burn)).toThrow('burned');
  expect(time.isOpen).toBe(false);
});
