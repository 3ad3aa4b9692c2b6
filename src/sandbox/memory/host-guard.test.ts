import { describe, expect, it } from 'vitest';
import {
  actionFor,
  actionForResume,
  IDLE_MS_MIN,
  memoryMarks,
  type PauseCandidate,
  reserveMibOf,
  Shortage,
} from './host-guard.ts';

const one = (id: string, more: Partial<PauseCandidate> = {}): PauseCandidate => ({
  ...{ id, isBusy: false, isPaused: false, idleMs: 0, isHeldOff: false },
  ...more,
});

describe('reserveMibOf', () => {
  it.each([
    [2048, 512],
    [16_384, 512],
    [24_576, 768],
    [65_536, 2048],
    [1_048_576, 4096],
  ])('a host with %d MiB keeps %d MiB free', (totalMib, reserveMib) => {
    expect(reserveMibOf(totalMib)).toBe(reserveMib);
  });
});

describe('Shortage', () => {
  it('begins below the low mark and ends at the high mark', () => {
    const shortage = new Shortage(memoryMarks(1000));
    const seen = [2000, 600, 500, 499, 600, 1249, 1250, 1249, 500, 499];
    expect(seen.map((mib) => shortage.take(mib))).toEqual([
      ...[false, false, false, true, true, true],
      ...[false, false, false, true],
    ]);
  });
});

describe('Shortage, if nothing can free more memory', () => {
  it('ends once the reserve is free, and begins below the low mark', () => {
    const shortage = new Shortage(memoryMarks(1000));
    expect(shortage.take(499)).toBe(true);
    expect(shortage.takeLast(999)).toBe(true);
    expect(shortage.takeLast(1000)).toBe(false);
    expect([1000, 500, 499].map((mib) => shortage.take(mib))).toEqual([false, false, true]);
  });
});

describe('actionForResume', () => {
  it('pauses sandboxes that were idle for a minute, never busy or paused ones, and refuses nothing', () => {
    const pause = (candidates: readonly PauseCandidate[]) =>
      actionForResume({ policy: 'pause', unusedBytes: 0, poolMembers: 0, candidates });
    const idle = one('idle', { idleMs: IDLE_MS_MIN });
    const others = [
      one('used', { idleMs: IDLE_MS_MIN - 1 }),
      one('busy', { isBusy: true, idleMs: 1e9 }),
      one('in memory', { isPaused: true, idleMs: 1e9 }),
    ];
    expect(pause([...others, idle])).toEqual({ do: 'pause', id: 'idle' });
    expect(pause(others)).toEqual({ do: 'nothing' });
    const short = { unusedBytes: 0, poolMembers: 1, candidates: [idle] };
    expect(actionForResume({ ...short, policy: 'pause' })).toEqual({ do: 'end-pool-member' });
    expect(actionForResume({ ...short, policy: 'refuse' })).toEqual({ do: 'nothing' });
  });
});

describe('actionFor', () => {
  const idle = one('idle', { idleMs: 1000 });
  const idler = one('idler', { idleMs: 5000 });
  const busy = one('busy', { isBusy: true, idleMs: 9000 });
  const inMemory = one('in memory', { isPaused: true, idleMs: 90_000 });
  const all = [busy, inMemory, idle, idler];

  it.each(['pause', 'refuse'] as const)('%s: unused shared memory is dropped first', (policy) => {
    const host = { policy, unusedBytes: 1, poolMembers: 1, candidates: all };
    expect(actionFor(host)).toEqual({ do: 'drop-unused' });
    expect(actionForResume(host)).toEqual({ do: 'drop-unused' });
  });

  it('pool members end next', () => {
    expect(actionFor({ policy: 'pause', unusedBytes: 0, poolMembers: 1, candidates: all })).toEqual({
      do: 'end-pool-member',
    });
  });

  it('pauses the longest idle, then busy, then paused in memory; then refuses starts', () => {
    const order: string[] = [];
    for (let left: readonly PauseCandidate[] = all; ; ) {
      const action = actionFor({ policy: 'pause', unusedBytes: 0, poolMembers: 0, candidates: left });
      if (action.do !== 'pause') {
        expect(action).toEqual({ do: 'refuse' });
        break;
      }
      order.push(action.id);
      left = left.filter(({ id }) => id !== action.id);
    }
    expect(order).toEqual(['idler', 'idle', 'busy', 'in memory']);
  });

  it('skips sandboxes that recently failed to pause', () => {
    const candidates = [{ ...idler, isHeldOff: true }, idle];
    expect(actionFor({ policy: 'pause', unusedBytes: 0, poolMembers: 0, candidates })).toEqual({
      do: 'pause',
      id: 'idle',
    });
  });

  it('refuse: neither pauses nor ends anything', () => {
    expect(actionFor({ policy: 'refuse', unusedBytes: 0, poolMembers: 3, candidates: all })).toEqual({ do: 'refuse' });
  });
});
