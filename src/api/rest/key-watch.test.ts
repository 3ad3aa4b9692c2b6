import { EventEmitter } from 'node:events';
import { expect, it } from 'vitest';
import { Listeners } from '../../base/listeners.ts';
import { KeyWatch } from './key-watch.ts';

class Stream extends EventEmitter {
  isDestroyed = false;
  closed = false;
  destroy(): void {
    this.isDestroyed = true;
    this.emit('close');
  }
}

it('KeyWatch: ends what a revoked key has open, and nothing of others', () => {
  const revocations = new Listeners<string>();
  const watch = new KeyWatch({ onEnd: (listener) => revocations.listen(listener) });
  const [mine, tunnel, other, operators, over] = Array.from({ length: 5 }, () => new Stream());
  watch.follow({ tenant: 'a', key: 'k1' }, mine as Stream);
  watch.follow({ tenant: 'a', key: 'k1' }, tunnel as Stream);
  watch.follow({ tenant: 'a', key: 'k2' }, other as Stream);
  watch.follow({ tenant: null, key: 'daemon' }, operators as Stream);
  watch.follow({ tenant: 'a', key: 'k1' }, over as Stream);
  over?.emit('close');
  expect(watch.size).toBe(3);
  revocations.emit('k1');
  const ended = [mine, tunnel, other, operators, over].map((one) => one?.isDestroyed);
  expect(ended).toEqual([true, true, false, false, false]);
  expect(watch.size).toBe(1);
  watch.close();
  expect([watch.size, revocations.size]).toEqual([0, 0]);
});
