import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { ClientError } from './errors.ts';
import { NextDaemon } from './next-daemon.ts';

const failure = (code: 'daemon_unreachable' | 'daemon_lost', cause = 'ECONNREFUSED'): ClientError =>
  new ClientError(code, code, { cause: Object.assign(new Error(cause), { code: cause }) });
const REFUSED = failure('daemon_unreachable');

class Fixture {
  readonly clock = new FakeClock();
  losses = 0;
  attempts = 0;
  readonly #onLoss = (): void => {
    this.losses += 1;
  };
  readonly next = new NextDaemon({ waitMs: 1000, onLoss: this.#onLoss }, this.clock, async (ms) =>
    this.clock.advance(ms),
  );

  /** An attempt fails with each error, then answers. */
  async run(errors: readonly Error[], isIdempotent = true): Promise<string> {
    const left = [...errors];
    const attempt = async (): Promise<string> => {
      this.attempts += 1;
      const error = left.shift();
      if (error !== undefined) throw error;
      this.next.onAnswer();
      return 'answer';
    };
    return await this.next.retry(attempt, { isIdempotent });
  }
}

describe('NextDaemon', () => {
  it('a daemon that never answered is not waited for', async () => {
    const fixture = new Fixture();
    await expect(fixture.run([REFUSED])).rejects.toBe(REFUSED);
    expect([fixture.attempts, fixture.losses]).toEqual([1, 0]);
  });

  it('a request waits for the next daemon, and each loss is reported once', async () => {
    const fixture = new Fixture();
    await fixture.run([]);
    expect(await fixture.run([REFUSED, REFUSED, failure('daemon_lost')])).toBe('answer');
    expect(fixture.losses).toBe(1);
    expect(await fixture.run([REFUSED], false)).toBe('answer');
    expect(fixture.losses).toBe(2);
  });

  it('at the time limit it fails, and the following requests do at once', async () => {
    const fixture = new Fixture();
    await fixture.run([]);
    await expect(fixture.run(Array.from({ length: 100 }, () => REFUSED))).rejects.toBe(REFUSED);
    expect(fixture.clock.now()).toBe(1000);
    await expect(fixture.run([REFUSED])).rejects.toBe(REFUSED);
    expect(fixture.clock.now()).toBe(1000);
  });

  it.each([
    ['a lost answer', failure('daemon_lost', 'ECONNRESET')],
    ['a time limit after it was sent', failure('daemon_unreachable', 'ETIMEDOUT')],
  ])('a change is never repeated after %s', async (_name, error) => {
    const fixture = new Fixture();
    await fixture.run([]);
    await expect(fixture.run([error], false)).rejects.toBe(error);
    expect([fixture.attempts, fixture.losses]).toEqual([2, 0]);
  });

  it('a request that ends each daemon is not repeated for ever', async () => {
    const fixture = new Fixture();
    await fixture.run([]);
    const lost = failure('daemon_lost', 'ECONNRESET');
    await expect(fixture.run(Array.from({ length: 10 }, () => lost))).rejects.toBe(lost);
    expect(fixture.attempts).toBe(5);
  });
});
