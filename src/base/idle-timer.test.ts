import { describe, expect, it } from 'vitest';
import { FakeClock } from './clock.ts';
import { IdleTimer } from './idle-timer.ts';

describe('IdleTimer', () => {
  it('fires after each idle period, counted from the last touch', () => {
    const clock = new FakeClock();
    const fired: number[] = [];
    const timer = new IdleTimer(clock, 100, () => fired.push(clock.now()));
    clock.advance(60);
    timer.touch();
    clock.advance(90);
    expect(fired).toEqual([]);
    clock.advance(200);
    expect(fired).toEqual([160, 260]);
    timer.stop();
    clock.advance(1000);
    expect(fired).toHaveLength(2);
  });
});
