import { EventEmitter } from 'node:events';
import { expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { KeyWatch } from './key-watch.ts';
import { API_LIMITS } from './limits.ts';

class Stream extends EventEmitter {
  isDestroyed = false;
  closed = false;
  destroy(): void {
    this.isDestroyed = true;
    this.emit('close');
  }
}

it('KeyWatch: ends what a revoked key has open, and nothing of others', () => {
  const clock = new FakeClock();
  const revoked = new Set<string>();
  let looks = 0;
  const isRevoked = (key: string): boolean => {
    looks += 1;
    return revoked.has(key);
  };
  const watch = new KeyWatch({ isRevoked }, clock);
  const [mine, tunnel, other, operators, over] = Array.from({ length: 5 }, () => new Stream());
  watch.follow({ tenant: 'a', key: 'k1' }, mine as Stream);
  watch.follow({ tenant: 'a', key: 'k1' }, tunnel as Stream);
  watch.follow({ tenant: 'a', key: 'k2' }, other as Stream);
  watch.follow({ tenant: null, key: 'daemon' }, operators as Stream);
  watch.follow({ tenant: 'a', key: 'k1' }, over as Stream);
  over?.emit('close');
  clock.advance(API_LIMITS.keyCheckMs);
  expect([looks, watch.size]).toEqual([2, 3]);
  revoked.add('k1');
  clock.advance(API_LIMITS.keyCheckMs);
  const ended = [mine, tunnel, other, operators, over].map((one) => one?.isDestroyed);
  expect(ended).toEqual([true, true, false, false, false]);
  other?.emit('close');
  clock.advance(10 * API_LIMITS.keyCheckMs);
  expect(watch.size).toBe(0);
  // Nothing is open, so nothing is checked.
  expect(looks).toBeLessThanOrEqual(5);
});
