import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { IdempotentRequests } from './idempotency.ts';
import { API_LIMITS } from './limits.ts';

const stays = (): AbortSignal => new AbortController().signal;

describe('IdempotentRequests', () => {
  it('one key starts one request, in progress or finished', async () => {
    const requests = new IdempotentRequests<number>(new FakeClock());
    const pending = Promise.withResolvers<number>();
    let starts = 0;
    const start = (): Promise<number> => {
      starts += 1;
      return pending.promise;
    };
    const first = requests.run('k', '{}', stays(), start);
    const second = requests.run('k', '{}', stays(), start);
    pending.resolve(7);
    expect(await Promise.all([first, second])).toEqual([7, 7]);
    expect(await requests.run('k', '{}', stays(), start)).toBe(7);
    expect(starts).toBe(1);
  });

  it('an expired key starts a new request', async () => {
    const clock = new FakeClock();
    const requests = new IdempotentRequests<number>(clock);
    expect(await requests.run('k', '{}', stays(), async () => 1)).toBe(1);
    clock.advance(API_LIMITS.idempotencyMs - 1);
    expect(await requests.run('k', '{}', stays(), async () => 2)).toBe(1);
    clock.advance(1);
    expect(await requests.run('k', '{}', stays(), async () => 3)).toBe(3);
  });

  it('a key with another request throws key_reused', async () => {
    const requests = new IdempotentRequests<number>(new FakeClock());
    await requests.run('k', '{"cpus":1}', stays(), async () => 1);
    await expect(requests.run('k', '{"cpus":2}', stays(), async () => 2)).rejects.toMatchObject({ code: 'key_reused' });
  });

  it('a failed request is forgotten', async () => {
    const requests = new IdempotentRequests<number>(new FakeClock());
    const fail = async (): Promise<number> => {
      throw new Error('no');
    };
    await expect(requests.run('k', '{}', stays(), fail)).rejects.toThrow('no');
    expect(await requests.run('k', '{}', stays(), async () => 2)).toBe(2);
  });

  it('cancels when the last client disconnects, not before', () => {
    const requests = new IdempotentRequests<number>(new FakeClock());
    const clients = [new AbortController(), new AbortController()];
    let cancelled = false;
    const start = (signal: AbortSignal): Promise<number> => {
      signal.addEventListener('abort', () => {
        cancelled = true;
      });
      return new Promise(() => undefined);
    };
    for (const { signal } of clients) void requests.run('k', '{}', signal, start);
    clients[0]?.abort();
    expect(cancelled).toBe(false);
    clients[1]?.abort();
    expect(cancelled).toBe(true);
  });

  it('the key limit drops the oldest finished key, but none in progress', async () => {
    const requests = new IdempotentRequests<number>(new FakeClock());
    for (let key = 0; key < API_LIMITS.idempotencyKeysMax; key += 1) {
      await requests.run(`k${key}`, '{}', stays(), async () => key);
    }
    await requests.run('one more', '{}', stays(), async () => 0);
    expect(await requests.run('k1', '{}', stays(), async () => -1)).toBe(1);
    expect(await requests.run('k0', '{}', stays(), async () => -1)).toBe(-1);

    const busy = new IdempotentRequests<number>(new FakeClock());
    const never = (): Promise<number> => new Promise(() => undefined);
    for (let key = 0; key < API_LIMITS.idempotencyKeysMax; key += 1) {
      void busy.run(`k${key}`, '{}', stays(), never);
    }
    await expect(busy.run('one more', '{}', stays(), never)).rejects.toMatchObject({
      code: 'busy',
      retryAfterMs: API_LIMITS.retryAfterMs,
    });
  });
});
