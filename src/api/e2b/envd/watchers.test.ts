import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import { E2B_LIMITS } from '../limits.ts';
import { Watchers } from './watchers.ts';

function make() {
  const clock = new FakeClock();
  const watchers = new Watchers(clock);
  const state = { add: (_event: unknown): void => undefined, stopped: 0 };
  const create = async (sandbox = 'a'): Promise<string> =>
    await watchers.create(sandbox, async (add) => {
      state.add = add;
      const stop = (): void => {
        state.stopped += 1;
      };
      return await Promise.resolve({ ended: new Promise<void>(() => undefined), stop });
    });
  return { clock, watchers, state, create };
}

describe('Watchers', () => {
  it('returns each event once, to its own sandbox only, and limits their number', async () => {
    const { watchers, state, create } = make();
    const id = await create();
    for (let n = 0; n < E2B_LIMITS.watcherEventsMax + 5; n += 1) state.add(n);
    expect(() => watchers.take('b', id)).toThrow('not found');
    expect(watchers.take('a', id)).toHaveLength(E2B_LIMITS.watcherEventsMax);
    expect(watchers.take('a', id)).toEqual([]);
  });

  it('limits the characters of events, since a guest chooses their size', async () => {
    const { watchers, state, create } = make();
    const id = await create();
    const event = { name: 'x'.repeat(64 * 1024) };
    for (let n = 0; n < 1000; n += 1) state.add(event);
    const kept = watchers.take('a', id).length;
    expect(kept).toBeGreaterThan(0);
    expect(kept).toBeLessThanOrEqual(E2B_LIMITS.watcherCharactersMax / event.name.length);
    state.add(event);
    expect(watchers.take('a', id)).toEqual([event]);
  });

  it('shares the characters of all events among sandboxes, until they are polled or dropped', async () => {
    const { watchers, state, create } = make();
    const event = { name: 'x'.repeat(1024 * 1024) };
    const { ownMax, sumMax } = E2B_LIMITS.watcherMemory;
    const most = (bytes: number): number => Math.floor(bytes / event.name.length);
    const fill = async (sandbox: string): Promise<string[]> => {
      const ids: string[] = [];
      for (let n = 0; n < 12; n += 1) {
        ids.push(await create(sandbox));
        for (let events = 0; events < 4; events += 1) state.add(event);
      }
      return ids;
    };
    const kept = (sandbox: string, ids: readonly string[]): number =>
      ids.reduce((sum, id) => sum + watchers.take(sandbox, id).length, 0);
    const greedy = new Map<string, string[]>();
    for (let n = 0; n < 12; n += 1) greedy.set(`greedy ${n}`, await fill(`greedy ${n}`));
    const late = await fill('late');
    expect(kept('late', late)).toBeGreaterThan(0);
    const counts = [...greedy].map(([sandbox, ids]) => kept(sandbox, ids));
    expect(Math.max(...counts)).toBeLessThanOrEqual(most(ownMax));
    expect(counts.reduce((sum, count) => sum + count, 0)).toBeLessThanOrEqual(most(sumMax));
    const again = await fill('again');
    expect(kept('again', again)).toBeGreaterThan(most(ownMax) * 0.8);
  });

  it('removes a watcher that is not polled, and stops its watch', async () => {
    const { clock, watchers, state, create } = make();
    const id = await create();
    clock.advance(E2B_LIMITS.watcherIdleMs - 1);
    watchers.take('a', id);
    clock.advance(E2B_LIMITS.watcherIdleMs - 1);
    expect(state.stopped).toBe(0);
    clock.advance(1);
    expect(state.stopped).toBe(1);
    expect(() => watchers.take('a', id)).toThrow('not found');
  });

  it('refuses too many watchers of one sandbox', async () => {
    const { watchers, create } = make();
    const ids: string[] = [];
    for (let n = 0; n < E2B_LIMITS.watchersMax; n += 1) ids.push(await create());
    await expect(create()).rejects.toMatchObject({ code: 'resource_exhausted' });
    await create('b');
    watchers.remove('a', ids[0] ?? '');
    await create();
  });

  it('removes watchers of an ended sandbox at once, even one being created', async () => {
    const { watchers, state, create } = make();
    const [first, other] = [await create(), await create('b')];
    const making = create();
    watchers.forget('a');
    const late = await making;
    expect(state.stopped).toBe(2);
    for (const id of [first, late]) expect(() => watchers.take('a', id)).toThrow('not found');
    expect(watchers.take('b', other)).toEqual([]);
  });
});
