import { describe, expect, it } from 'vitest';
import { FakeClock } from '../base/clock.ts';
import { silentLog } from '../base/log.ts';
import { SandboxError } from './errors.ts';
import { EventJournal, type SandboxEventBody, type TimedEvent } from './event-journal.ts';
import { checkAction, type MemoryAction, MemoryPolicy, POLICY_LIMITS } from './memory-policy.ts';

const NEAR: SandboxEventBody = {
  ...{ type: 'near_oom', source: 'guest', memoryBytes: 1, limitBytes: 2 },
};
const ID = 'abcdefghij0123456789';

function world(
  onMemoryPressure: MemoryAction,
  failure: (what: string) => Error | null = () => null,
) {
  const clock = new FakeClock();
  const done: string[] = [];
  const act = async (what: string): Promise<void> => {
    const error = failure(what);
    if (error !== null) throw error;
    done.push(what);
  };
  const policy = new MemoryPolicy({
    ...{ clock, log: silentLog },
    notify: (url, event) => act(`post ${url} ${JSON.stringify(event)}`),
  });
  const events = new EventJournal(clock);
  const sandbox = {
    ...{ id: ID, terms: { onMemoryPressure }, events },
    pause: (to: string) => act(`pause ${to}`),
    snapshot: (name: string) => act(`snapshot ${name}`),
    spec: { memoryMib: 256 },
    resizeMemory: (memoryMib: number) => act(`resize ${memoryMib}`),
  };
  const press = async (body: SandboxEventBody = NEAR): Promise<void> => {
    events.note(body);
    await policy.take(sandbox, events.since(0).at(-1) as TimedEvent);
  };
  const actions = (): TimedEvent[] => events.since(0).filter(({ type }) => type === 'action');
  return { clock, done, press, actions };
}

describe('MemoryPolicy', () => {
  it.each<[MemoryAction, string[]]>([
    ['warn', []],
    ['pause', ['pause memory']],
    ['snapshot', [`snapshot near-oom-${ID}-1`]],
  ])('%s', async (action, expected) => {
    const { done, press, actions } = world(action);
    await press();
    expect(done).toEqual(expected);
    expect(actions()).toMatchObject([{ action, ok: true }]);
  });

  it('a URL gets the event, with the sandbox', async () => {
    const { done, press, actions } = world('http://127.0.0.1:9/hook');
    await press();
    expect(done[0]).toMatch(/^post http:\/\/127.0.0.1:9\/hook \{"sandbox":"abcdefghij0123456789"/);
    expect(done[0]).toContain('"near_oom"');
    expect(actions()).toMatchObject([{ action: 'webhook', ok: true }]);
  });

  it('what fails is told, and the next one is tried again', async () => {
    const { clock, press, actions } = world('pause', (what) => new Error(`${what} failed`));
    await press();
    expect(actions()).toMatchObject([{ ok: false, detail: 'pause memory failed' }]);
    clock.advance(POLICY_LIMITS.holdOffMs);
    await press();
    expect(actions()).toHaveLength(2);
  });

  it('a guest that says it again and again is answered once in a while', async () => {
    const { clock, done, press } = world('pause');
    for (let n = 0; n < 100; n += 1) await press();
    expect(done).toHaveLength(1);
    clock.advance(POLICY_LIMITS.holdOffMs);
    await press();
    expect(done).toHaveLength(2);
  });

  it('does not fill the disk with snapshots', async () => {
    const { clock, done, press, actions } = world('snapshot');
    for (let n = 0; n < 10; n += 1) {
      await press();
      clock.advance(POLICY_LIMITS.holdOffMs);
    }
    expect(done).toHaveLength(POLICY_LIMITS.snapshotsMax);
    expect(actions().at(-1)).toMatchObject({ ok: false });
  });

  it('counts the snapshots that a process before this one has taken', async () => {
    const taken = new SandboxError('name_taken', 'taken');
    const { done, press, actions } = world('snapshot', (name) =>
      name.endsWith('-1') ? taken : null,
    );
    await press();
    expect(done).toEqual([`snapshot near-oom-${ID}-2`]);
    expect(actions()).toMatchObject([{ ok: true, detail: `near-oom-${ID}-2` }]);
  });

  it('only near_oom is answered', async () => {
    const { done, press } = world('pause');
    await press({ type: 'dropped', count: 1 });
    await press({ type: 'oom', source: 'guest', victim: null, detail: '' });
    expect(done).toEqual([]);
  });
});

describe('checkAction', () => {
  it.each(['warn', 'pause', 'snapshot', 'http://h/x', 'https://h:1/x?y', undefined])(
    '%s',
    (action) => {
      expect(() => checkAction(action)).not.toThrow();
    },
  );
  it.each([
    'grow',
    '',
    'kill',
    'ftp://h',
    'http://u:p@h/',
    'http://',
    `http://h/${'x'.repeat(3000)}`,
  ])('refuses %s', (action) => {
    expect(() => checkAction(action)).toThrow(expect.objectContaining({ code: 'spec_invalid' }));
  });
  it('grow: needs a maximum', () => {
    expect(() => checkAction('grow')).toThrow(/a sandbox with a maximum/);
    expect(() => checkAction('grow', true)).not.toThrow();
  });
});
