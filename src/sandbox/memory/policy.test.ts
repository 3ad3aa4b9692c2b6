import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { silentLog } from '../../base/log.ts';
import type { MemoryAction } from '../contract/control.ts';
import { SandboxError } from '../contract/errors.ts';
import type { SandboxEventBody, TimedEvent } from '../contract/events.ts';
import { EventJournal } from '../plane/event-journal.ts';
import { GROW_HOLD_OFF_MS } from './growth.ts';
import { MemoryPolicy, POLICY_LIMITS } from './policy.ts';
import type { MemorySize } from './size.ts';

const NEAR: SandboxEventBody = { type: 'near_oom', source: 'guest', memoryBytes: 1, limitBytes: 2 };
const ID = 'abcdefghij0123456789';

function world(
  onMemoryPressure: MemoryAction,
  failure: (what: string) => Error | null = () => null,
  more: { memoryMaxMib?: number; roomMib?: number } = {},
) {
  const clock = new FakeClock();
  const done: string[] = [];
  const act = async (what: string): Promise<void> => {
    const error = failure(what);
    if (error !== null) throw error;
    done.push(what);
  };
  const { memoryMaxMib, roomMib = 10_000 } = more;
  let spec: MemorySize = { memoryMib: 256, ...(memoryMaxMib === undefined ? {} : { memoryMaxMib }) };
  const room = { mib: roomMib };
  const reserve = (mib: number): (() => void) => {
    if (mib > room.mib) throw new SandboxError('memory_unavailable', `${room.mib} MiB left`);
    room.mib -= mib;
    return () => {
      room.mib += mib;
    };
  };
  const policy = new MemoryPolicy({
    clock,
    log: silentLog,
    reserve,
    notify: (url, event) => act(`post ${url} ${JSON.stringify(event)}`),
  });
  const events = new EventJournal(clock);
  const sandbox = {
    id: ID,
    policy: { onMemoryPressure },
    events,
    pause: (to: string) => act(`pause ${to}`),
    snapshot: (name: string) => act(`snapshot ${name}`),
    get spec() {
      return spec;
    },
    growMemory: async (memoryMib: number) => {
      await act(`grow ${memoryMib}`);
      spec = { ...spec, memoryMib };
    },
  };
  const press = async (body: SandboxEventBody = NEAR): Promise<void> => {
    events.note(body);
    await policy.take(sandbox, events.since(0).at(-1) as TimedEvent);
  };
  const actions = (): TimedEvent[] => events.since(0).filter(({ type }) => type === 'action');
  return { clock, done, press, actions, room };
}

describe('MemoryPolicy', () => {
  it.each<[MemoryAction, string[]]>([
    ['warn', []],
    ['pause', ['pause memory']],
    ['snapshot', [`snapshot near-oom-${ID}-1`]],
  ])('action %s', async (action, expected) => {
    const { done, press, actions } = world(action);
    await press();
    expect(done).toEqual(expected);
    expect(actions()).toMatchObject([{ action, ok: true }]);
  });

  it('URL: gets the event and the sandbox’s id', async () => {
    const { done, press, actions } = world('http://127.0.0.1:9/hook');
    await press();
    expect(done[0]).toMatch(/^post http:\/\/127.0.0.1:9\/hook \{"sandbox":"abcdefghij0123456789"/);
    expect(done[0]).toContain('"near_oom"');
    expect(actions()).toMatchObject([{ action: 'webhook', ok: true }]);
  });

  it('a failed action becomes an event, and the next event acts again', async () => {
    const { clock, press, actions } = world('pause', (what) => new Error(`${what} failed`));
    await press();
    expect(actions()).toMatchObject([{ ok: false, detail: 'pause memory failed' }]);
    clock.advance(POLICY_LIMITS.holdOffMs);
    await press();
    expect(actions()).toHaveLength(2);
  });

  it('repeated events: one action per hold-off period', async () => {
    const { clock, done, press } = world('pause');
    for (let n = 0; n < 100; n += 1) await press();
    expect(done).toHaveLength(1);
    clock.advance(POLICY_LIMITS.holdOffMs);
    await press();
    expect(done).toHaveLength(2);
  });

  it('snapshot: at most `snapshotsMax`', async () => {
    const { clock, done, press, actions } = world('snapshot');
    for (let n = 0; n < 10; n += 1) {
      await press();
      clock.advance(POLICY_LIMITS.holdOffMs);
    }
    expect(done).toHaveLength(POLICY_LIMITS.snapshotsMax);
    expect(actions().at(-1)).toMatchObject({ ok: false });
  });

  it('snapshot: counts snapshots of an earlier process', async () => {
    const taken = new SandboxError('name_taken', 'taken');
    const { done, press, actions } = world('snapshot', (name) => (name.endsWith('-1') ? taken : null));
    await press();
    expect(done).toEqual([`snapshot near-oom-${ID}-2`]);
    expect(actions()).toMatchObject([{ ok: true, detail: `near-oom-${ID}-2` }]);
  });

  it('only near_oom causes an action', async () => {
    const { done, press } = world('pause');
    await press({ type: 'dropped', count: 1 });
    await press({ type: 'oom', source: 'guest', victim: null, detail: '' });
    expect(done).toEqual([]);
  });
});

const PRESSED: SandboxEventBody = {
  type: 'pressure',
  source: 'guest',
  memoryBytes: 1,
  limitBytes: 2,
  some: 0,
  full: 0,
};

describe('MemoryPolicy: a sandbox with a maximum', () => {
  it('pressure: one growth step each, up to the maximum', async () => {
    const { done, press } = world('pause', undefined, { memoryMaxMib: 600 });
    for (let n = 0; n < 10; n += 1) await press(PRESSED);
    expect(done).toEqual(['grow 384', 'grow 576', 'grow 600']);
  });

  it.each<[MemoryAction, string[], string]>([
    ['pause', ['grow 300', 'pause memory'], 'pause'],
    ['grow', ['grow 300'], 'warn'],
  ])('near_oom: grows first; at the maximum %s', async (action, expected, told) => {
    const { done, press, actions } = world(action, undefined, { memoryMaxMib: 300 });
    await press();
    expect(actions()).toEqual([]);
    await press();
    expect(done).toEqual(expected);
    expect(actions()).toMatchObject([{ action: told, ok: true }]);
  });

  it('an event during a step joins that step', async () => {
    const { done, press, actions } = world('pause', undefined, { memoryMaxMib: 1024 });
    await Promise.all([press(), press(PRESSED), press()]);
    expect(done).toEqual(['grow 384']);
    expect(actions()).toEqual([]);
  });

  it('a failed growth step becomes an event, holds off the next one, and the action follows', async () => {
    const refuse = (what: string): Error | null => (what.startsWith('grow') ? new Error(`${what} failed`) : null);
    const { clock, done, press, actions } = world('pause', refuse, { memoryMaxMib: 1024 });
    for (let n = 0; n < 20; n += 1) await press();
    expect(done).toEqual(['pause memory']);
    const grow = { action: 'grow', ok: false, detail: '256 to 384 MiB: grow 384 failed' };
    expect(actions()).toMatchObject([grow, { action: 'pause', ok: true }]);
    clock.advance(GROW_HOLD_OFF_MS);
    await press(PRESSED);
    expect(actions()).toHaveLength(3);
  });

  it('a host without free memory: no growth, and an event', async () => {
    const { done, press, actions } = world('warn', undefined, { memoryMaxMib: 1024, roomMib: 127 });
    await press();
    expect(done).toEqual([]);
    const detail = '256 to 384 MiB: 127 MiB left';
    expect(actions()).toMatchObject([{ action: 'grow', ok: false, detail }, { action: 'warn' }]);
  });

  it('reserve: held during a growth step, successful or not', async () => {
    const seen: number[] = [];
    const more = { memoryMaxMib: 1024, roomMib: 500 };
    const look = (): null => {
      seen.push(tried.room.mib);
      return null;
    };
    const tried = world('warn', look, more);
    await tried.press();
    expect([seen, tried.room.mib]).toEqual([[372], 500]);
    const failed = world('warn', () => new Error('no'), more);
    await failed.press();
    expect(failed.room.mib).toBe(500);
  });

  it('events of the host’s kernel do not cause growth', async () => {
    const { done, press } = world('warn', undefined, { memoryMaxMib: 1024 });
    await press({ ...PRESSED, source: 'host' } as SandboxEventBody);
    await press({ ...NEAR, source: 'host' } as SandboxEventBody);
    expect(done).toEqual([]);
  });
});
