import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import { silentLog } from '../../../base/log.ts';
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import { type EndInfo, NO_EVIDENCE } from '../../../sandbox/contract/ending.ts';
import { SandboxError } from '../../../sandbox/contract/errors.ts';
import { EVENT_TYPES, EventJournal, type NewEvent, type Webhook } from './journal.ts';
import { noteLifecycle } from './lifecycle.ts';
import { EVENT_LIMITS } from './limits.ts';
import { signatureOf, Webhooks } from './webhooks.ts';

let dir: string;
let path: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-events-'));
  path = join(dir, 'events.db');
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const event = (sandboxId: string, more: Partial<NewEvent> = {}): NewEvent => ({
  type: 'sandbox.lifecycle.created',
  tenant: null,
  sandboxId,
  template: 'agent',
  execution: 'e',
  atMs: 1,
  data: null,
  ...more,
});
const ALL = { offset: 0, limit: 100, isAscending: true, tenant: null };
const webhook = (more: Partial<Webhook> = {}): Webhook => ({
  id: 'w',
  tenant: null,
  name: 'w',
  url: 'http://hook.example/',
  enabled: true,
  events: [...EVENT_TYPES],
  secret: 's',
  createdAtMs: 1,
  ...more,
});

describe('EventJournal', () => {
  it('keeps the order across a restart, in a private file', () => {
    {
      using journal = new EventJournal(path);
      journal.append(event('a'));
      journal.append(event('b', { type: 'sandbox.lifecycle.killed' }));
    }
    using journal = new EventJournal(path);
    journal.append(event('c', { tenant: 'blue' }));
    const all = journal.list(ALL);
    expect(all.map(({ sandboxId, seq }) => [sandboxId, seq])).toEqual([
      ['a', 1],
      ['b', 2],
      ['c', 3],
    ]);
    expect(journal.open().map(({ sandboxId }) => sandboxId)).toEqual(['a', 'c']);
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  it('shows a tenant its own events, by type, in pages', () => {
    using journal = new EventJournal(path);
    for (const id of ['a', 'b', 'c']) journal.append(event(id, { tenant: 'blue' }));
    journal.append(event('d', { tenant: 'red', type: 'sandbox.lifecycle.killed' }));
    const ids = (query: object) => journal.list({ ...ALL, ...query }).map(({ sandboxId }) => sandboxId);
    expect(ids({ tenant: 'blue', isAscending: false, limit: 2, offset: 1 })).toEqual(['b', 'a']);
    expect(ids({ types: ['sandbox.lifecycle.killed'] })).toEqual(['d']);
    expect(ids({ tenant: 'blue', sandboxId: 'd' })).toEqual([]);
  });

  it('limits the events of each tenant, even across a restart, so that none evicts another’s', () => {
    const limits = { keptMax: 3, keptSumMax: 5 };
    const kept = (journal: EventJournal, tenant: string) =>
      journal.list({ ...ALL, tenant }).map(({ sandboxId }) => sandboxId);
    {
      using journal = new EventJournal(path, limits);
      journal.append(event('b1', { tenant: 'blue' }));
      for (const id of ['r1', 'r2', 'r3', 'r4']) journal.append(event(id, { tenant: 'red' }));
      expect([kept(journal, 'blue'), kept(journal, 'red')]).toEqual([['b1'], ['r2', 'r3', 'r4']]);
    }
    using journal = new EventJournal(path, limits);
    journal.append(event('r5', { tenant: 'red' }));
    expect([kept(journal, 'blue'), kept(journal, 'red')]).toEqual([['b1'], ['r3', 'r4', 'r5']]);
    // Beyond the sum, the tenant with the most events loses its oldest.
    for (const id of ['g1', 'g2']) journal.append(event(id, { tenant: 'green' }));
    expect(journal.list(ALL).map(({ sandboxId }) => sandboxId)).toEqual(['b1', 'r4', 'r5', 'g1', 'g2']);
  });
});

describe('EventJournal: bytes', () => {
  const large = (id: string) => event(id, { tenant: 'red', data: { text: 'é'.repeat(100) } });
  const BYTES = Buffer.byteLength(JSON.stringify(large('r0')));
  const kept = (journal: EventJournal, tenant: string) =>
    journal.list({ ...ALL, tenant }).map(({ sandboxId }) => sandboxId);

  it('a tenant’s oldest events go first, also after a restart, and no other tenant’s', () => {
    const limits = { keptBytesMax: 3 * BYTES };
    {
      using journal = new EventJournal(path, { keptBytesMax: 5 * BYTES });
      journal.append(event('b1', { tenant: 'blue' }));
      for (const id of ['r1', 'r2', 'r3', 'r4', 'r5', 'r6']) journal.append(large(id));
      expect(kept(journal, 'red')).toEqual(['r2', 'r3', 'r4', 'r5', 'r6']);
      expect(journal.bytesOf('red')).toBe(5 * BYTES);
    }
    using journal = new EventJournal(path, limits);
    expect(journal.bytesOf('red')).toBe(5 * BYTES);
    journal.append(large('r7'));
    expect([kept(journal, 'blue'), kept(journal, 'red')]).toEqual([['b1'], ['r5', 'r6', 'r7']]);
    expect(journal.bytesOf('red')).toBe(3 * BYTES);
    expect(journal.bytesOf('green')).toBe(0);
  });

  it('a webhook goes on with the oldest event that is left, and gets none twice', () => {
    using journal = new EventJournal(path, { keptBytesMax: 2 * BYTES });
    const hook = webhook({ tenant: 'red' });
    journal.saveWebhook(hook, true);
    journal.append(large('r1'));
    journal.noteDelivered(hook.id, journal.nextFor(hook)?.seq ?? 0);
    for (const id of ['r2', 'r3', 'r4']) journal.append(large(id));
    const got: string[] = [];
    for (let next = journal.nextFor(hook); next !== undefined; next = journal.nextFor(hook)) {
      got.push(next.sandboxId);
      journal.noteDelivered(hook.id, next.seq);
    }
    expect(got).toEqual(['r3', 'r4']);
  });
});

describe('EventJournal.nextFor', () => {
  /** @returns the number of events that `use` visits */
  const visits = (use: (journal: EventJournal) => void): number => {
    const prepare = vi.spyOn(DatabaseSync.prototype, 'prepare');
    using journal = new EventJournal(path);
    const [db] = prepare.mock.contexts as DatabaseSync[];
    prepare.mockRestore();
    let count = 0;
    db?.function('visited', (_seq) => {
      count += 1;
      return 1;
    });
    // Shadows the table.
    db?.exec('CREATE TEMP VIEW events AS SELECT * FROM main.events WHERE visited(seq)');
    use(journal);
    return count;
  };
  const types = ['sandbox.lifecycle.checkpointed', 'sandbox.lifecycle.killed'] as const;

  it.each([null, 'blue'])('visits no events that do not match, even after a restart (webhook of %s)', (tenant) => {
    const rare = webhook({ tenant, events: [...types] });
    {
      using journal = new EventJournal(path);
      journal.saveWebhook(rare, true);
      for (let n = 0; n < 200; n += 1) journal.append(event(`u${n}`, { tenant: 'blue' }));
      journal.append(event('red', { tenant: 'red', type: types[0] }));
    }
    if (tenant !== null) expect(visits((journal) => expect(journal.nextFor(rare)).toBeUndefined())).toBe(0);
    {
      using journal = new EventJournal(path);
      for (const id of ['a', 'b']) for (const type of types) journal.append(event(id, { tenant: 'blue', type }));
    }
    const next = { sandboxId: tenant === null ? 'red' : 'a', type: types[0] };
    expect(visits((journal) => expect(journal.nextFor(rare)).toMatchObject(next))).toBe(types.length);
  });
});

describe('Webhooks', () => {
  it('deliver in order, and again after failures and a restart, but nothing from before', async () => {
    using journal = new EventJournal(path);
    journal.append(event('before'));
    journal.saveWebhook(webhook(), true);
    const clock = new FakeClock();
    const got: string[] = [];
    let failures = 2;
    const { promise, resolve } = Promise.withResolvers<void>();
    const post = async (_url: string, body: string): Promise<void> => {
      if (failures > 0) {
        failures -= 1;
        // The next attempt waits for its time.
        setImmediate(() => clock.advance(EVENT_LIMITS.retryMsMax));
        throw new Error('down');
      }
      got.push((JSON.parse(body) as { sandboxId: string }).sandboxId);
      if (got.length === 2) resolve();
    };
    const parts = { journal, clock, log: silentLog, post };
    const webhooks = new Webhooks(parts);
    for (const id of ['a', 'b']) journal.append(event(id));
    webhooks.wake(event('b'));
    await promise;
    expect(got).toEqual(['a', 'b']);
    await webhooks[Symbol.asyncDispose]();
    journal.append(event('c'));
    const again = Promise.withResolvers<void>();
    const second = new Webhooks({
      ...parts,
      post: async (_url, body) => {
        got.push((JSON.parse(body) as { sandboxId: string }).sandboxId);
        if (got.at(-1) === 'c') again.resolve();
      },
    });
    await again.promise;
    // The last event may be repeated if the restart came before its delivery was recorded.
    expect([...new Set(got)]).toEqual(['a', 'b', 'c']);
    await second[Symbol.asyncDispose]();
  });

  it('wait while the journal fails, and then continue', async () => {
    using journal = new EventJournal(path);
    journal.saveWebhook(webhook(), true);
    journal.append(event('a'));
    const clock = new FakeClock();
    let failures = 2;
    const failing = (work: () => unknown): unknown => {
      if (failures === 0) return work();
      failures -= 1;
      setImmediate(() => clock.advance(EVENT_LIMITS.retryMsMax));
      throw new Error('disk full');
    };
    const shaky = {
      webhooks: () => journal.webhooks(),
      nextFor: (one: Webhook) => failing(() => journal.nextFor(one)),
      noteDelivered: (id: string, seq: number) => journal.noteDelivered(id, seq),
    } as unknown as EventJournal;
    const { promise, resolve } = Promise.withResolvers<void>();
    const post = async (): Promise<void> => resolve();
    const webhooks = new Webhooks({ journal: shaky, clock, log: silentLog, post });
    await promise;
    await webhooks[Symbol.asyncDispose]();
  });

  it('a removed tenant’s get no events of a new one of its name, which sees none of its events', async () => {
    using journal = new EventJournal(path);
    for (const tenant of ['blue', 'red']) journal.saveWebhook(webhook({ id: tenant, tenant }), true);
    const got: string[] = [];
    const post = async (_url: string, body: string): Promise<void> => {
      got.push((JSON.parse(body) as { sandboxId: string }).sandboxId);
    };
    await using webhooks = new Webhooks({ journal, clock: new FakeClock(), log: silentLog, post });
    const note = async (one: NewEvent): Promise<void> => {
      journal.append(one);
      webhooks.wake(one);
      await new Promise((resolve) => setImmediate(resolve));
    };
    await note(event('old', { tenant: 'blue' }));
    expect(got).toEqual(['old']);
    webhooks.forget('blue');
    expect(journal.bytesOf('blue')).toBe(0);
    await note(event('new', { tenant: 'blue' }));
    await note(event('other', { tenant: 'red' }));
    expect(got).toEqual(['old', 'other']);
    expect(journal.list({ ...ALL, tenant: 'blue' }).map(({ sandboxId }) => sandboxId)).toEqual(['new']);
    expect(journal.webhooks().map(({ id }) => id)).toEqual(['red']);
  });

  it('look for an event only when its tenant and type match', async () => {
    using journal = new EventJournal(path);
    const asked: string[] = [];
    const watched = {
      webhooks: () => journal.webhooks(),
      nextFor: (one: Webhook) => {
        asked.push(one.id);
        return journal.nextFor(one);
      },
      noteDelivered: (id: string, seq: number) => journal.noteDelivered(id, seq),
    } as unknown as EventJournal;
    const rare = ['sandbox.lifecycle.checkpointed'] as const;
    journal.saveWebhook(webhook({ id: 'operator' }), true);
    journal.saveWebhook(webhook({ id: 'blue', tenant: 'blue' }), true);
    journal.saveWebhook(webhook({ id: 'blue-rare', tenant: 'blue', events: [...rare] }), true);
    journal.saveWebhook(webhook({ id: 'red-rare', tenant: 'red', events: [...rare] }), true);
    const post = async (): Promise<void> => undefined;
    await using webhooks = new Webhooks({ journal: watched, clock: new FakeClock(), log: silentLog, post });
    /** Webhooks that look for more events after this one. */
    const wokenBy = async (one: NewEvent): Promise<string[]> => {
      asked.length = 0;
      journal.append(one);
      webhooks.wake(one);
      await new Promise((resolve) => setImmediate(resolve));
      return [...new Set(asked)].sort();
    };
    expect(await wokenBy(event('a', { tenant: 'blue' }))).toEqual(['blue', 'operator']);
    expect(await wokenBy(event('b', { tenant: 'red' }))).toEqual(['operator']);
    expect(await wokenBy(event('c', { tenant: 'red', type: rare[0] }))).toEqual(['operator', 'red-rare']);
  });

  it('sign as E2B documents it', () => {
    expect(signatureOf('secret', '{"a":1}')).toBe('N7005LKS7534v+cOP1BSYTkklJDDwllM8gF1unZl4B0');
  });
});

describe('noteLifecycle', () => {
  it('tells how a sandbox ended that ended with its daemon, though no list has it', async () => {
    using journal = new EventJournal(path);
    journal.append(event('stopped'));
    journal.append(event('forgotten'));
    const end: EndInfo = { cause: 'daemon-stopped', detail: '', atMs: 1, evidence: NO_EVIDENCE };
    const notes = noteLifecycle({
      control: {
        onChange: () => () => undefined,
        list: async () => [],
        snapshots: async () => [],
        get: async (id) => {
          if (id === 'forgotten') throw new SandboxError('not_found', 'there is no such sandbox');
          return { end } as SandboxInfo;
        },
      },
      journal,
      clock: new FakeClock(),
      log: silentLog,
      onEvent: () => undefined,
    });
    await notes.begin();
    expect(journal.list(ALL).slice(2)).toMatchObject([
      { sandboxId: 'stopped', type: 'sandbox.lifecycle.killed', data: { end: { cause: 'daemon-stopped' } } },
      { sandboxId: 'forgotten', type: 'sandbox.lifecycle.killed', data: { end: { cause: 'host-lost' } } },
    ]);
  });
});
