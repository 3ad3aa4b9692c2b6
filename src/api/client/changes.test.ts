import { getEventListeners } from 'node:events';
import { describe, expect, it } from 'vitest';
import { type Clock, FakeClock } from '../../base/clock.ts';
import { Changes } from './changes.ts';

const RETRIES = 20;

class CountingClock extends FakeClock implements Clock {
  timers = 0;

  override after(delayMs: number, run: () => void): () => void {
    this.timers += 1;
    const cancel = super.after(delayMs, () => {
      this.timers -= 1;
      run();
    });
    return () => {
      this.timers -= 1;
      cancel();
    };
  }
}

describe('Changes', () => {
  it('retry: leaves no abort listener behind', async () => {
    const clock = new CountingClock();
    const unreachable = () => Promise.reject(new Error('unreachable'));
    const signals: AbortSignal[] = [];
    const open = (signal: AbortSignal): Promise<never> => {
      signals.push(signal);
      return unreachable();
    };
    const changes = new Changes({ open, list: unreachable, get: unreachable }, clock);
    const stop = changes.listen(() => undefined);
    for (let retry = 1; retry <= RETRIES; retry += 1) {
      await expect.poll(() => clock.timers).toBe(1);
      clock.advance(1000);
    }
    await expect.poll(() => clock.timers).toBe(1);
    expect(signals).toHaveLength(RETRIES + 1);
    const [signal] = signals;
    if (signal === undefined) throw new Error('the stream was never opened');
    expect(getEventListeners(signal, 'abort')).toHaveLength(1);
    stop();
    expect(signal.aborted).toBe(true);
    expect(clock.timers).toBe(0);
  });
});
