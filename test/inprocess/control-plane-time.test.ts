/** Timeout and idle timeout, with a fake clock. No VMs. */
import { describe, expect, it } from 'vitest';
import { FakeHost } from '../support/fake-host.ts';
import { requireNothing } from '../support/fake-leftovers.ts';
import { settle } from '../support/fake-members.ts';

/** Delay before the retry of a failed pause: after the timeout, and of an idle sandbox. */
const TIMEOUT_RETRY_MS = 10_000;
const IDLE_RETRY_MS = 60_000;

describe('LocalControlPlane: timeoutMs', () => {
  it('kill: ends the sandbox at the timeout, with that cause', async () => {
    await using host = await FakeHost.open();
    const { id, endsAtMs } = await host.control.create({ boot: true, timeoutMs: 10_000 });
    expect(endsAtMs).toBe(host.clock.wall() + 10_000);
    host.clock.advance(9_999);
    await settle();
    expect(await host.control.get(id)).toMatchObject({ status: 'running' });
    const ended = host.became(id, 'ended');
    host.clock.advance(1);
    await ended;
    expect(await host.control.get(id)).toMatchObject({ endsAtMs: null, end: { cause: 'timeout' } });
    await requireNothing(host);
  });

  it('pause: keeps the memory, and a resume restarts the timeout', async () => {
    await using host = await FakeHost.open();
    const { control, clock } = host;
    const request = { boot: true, timeoutMs: 10_000, onTimeout: 'pause' } as const;
    const { id } = await control.create(request);
    await (await host.guest(id)).remember('a thing');
    for (let turn = 0; turn < 2; turn++) {
      const paused = host.became(id, 'paused');
      clock.advance(10_000);
      await paused;
      expect(await control.get(id)).toMatchObject({ pausedTo: 'disk', endsAtMs: null });
      clock.advance(100_000);
      expect(await control.resume(id)).toMatchObject({ endsAtMs: clock.wall() + 10_000 });
      expect(await (await host.guest(id)).recall()).toBe('a thing');
    }
    await requireNothing(host);
  });

  it.each(['memory', 'disk'] as const)('does not count while paused to %s', async (to) => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true, timeoutMs: 10_000 });
    host.clock.advance(9_000);
    expect(await host.control.pause(id, to)).toMatchObject({ endsAtMs: null });
    host.clock.advance(100_000);
    await settle();
    expect(await host.control.resume(id)).toMatchObject({ status: 'running', endsAtMs: host.clock.wall() + 10_000 });
    await requireNothing(host);
  });

  it('update: restarts the timeout; null removes it; an omitted field stays', async () => {
    await using host = await FakeHost.open();
    const { control, clock } = host;
    const { id, endsAtMs } = await control.create({ boot: true, timeoutMs: 10_000 });
    clock.advance(5_000);
    expect(await control.update(id, { metadata: { a: 'b' } })).toMatchObject({ endsAtMs });
    const longer = { timeoutMs: 20_000 };
    expect(await control.update(id, longer)).toMatchObject({ endsAtMs: clock.wall() + 20_000 });
    clock.advance(19_999);
    expect(await control.update(id, { timeoutMs: null })).toMatchObject({ endsAtMs: null });
    clock.advance(1_000_000);
    await settle();
    expect(await control.get(id)).toMatchObject({ status: 'running', metadata: { a: 'b' } });
    await requireNothing(host);
  });

  it('kill: also during a save', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true, timeoutMs: 10_000 });
    const held = host.script.hold('keep-disk');
    const saving = expect(host.control.snapshot(id)).rejects.toMatchObject({ code: 'gone' });
    await held.reached;
    const ended = host.became(id, 'ended');
    host.clock.advance(10_000);
    await settle();
    held.release();
    await Promise.all([ended, saving]);
    expect(await host.control.get(id)).toMatchObject({ end: { cause: 'timeout' } });
    await requireNothing(host);
  });

  it('pause: retried until it succeeds', async () => {
    await using host = await FakeHost.open();
    const request = { boot: true, timeoutMs: 10_000, onTimeout: 'pause' } as const;
    const { id } = await host.control.create(request);
    let at = 10_000;
    for (const phase of ['settle', 'keep-memory', 'commit'] as const) {
      host.script.fail(phase);
      const back = host.became(id, 'running');
      host.clock.advance(at);
      await back;
      await settle();
      at = TIMEOUT_RETRY_MS;
    }
    const paused = host.became(id, 'paused');
    host.clock.advance(TIMEOUT_RETRY_MS);
    await paused;
    await requireNothing(host);
  });

  it('pause: retried even if the idle timeout was changed meanwhile', async () => {
    await using host = await FakeHost.open();
    const request = { boot: true, timeoutMs: 10_000, onTimeout: 'pause' } as const;
    const { id } = await host.control.create(request);
    const held = host.script.hold('settle');
    host.clock.advance(10_000);
    await held.reached;
    await host.control.update(id, { idleTimeoutMs: 3_600_000 });
    const back = host.became(id, 'running');
    held.release(new Error('no'));
    await back;
    await settle();
    const paused = host.became(id, 'paused');
    host.clock.advance(TIMEOUT_RETRY_MS);
    await paused;
    await requireNothing(host);
  });

  it('pause: not retried once the timeout was extended', async () => {
    await using host = await FakeHost.open();
    const request = { boot: true, timeoutMs: 10_000, onTimeout: 'pause' } as const;
    const { id } = await host.control.create(request);
    const held = host.script.hold('settle');
    host.clock.advance(10_000);
    await held.reached;
    const longer = await host.control.update(id, { timeoutMs: 3_600_000 });
    const back = host.became(id, 'running');
    held.release(new Error('no'));
    await back;
    await settle();
    host.clock.advance(TIMEOUT_RETRY_MS);
    await settle();
    expect(await host.control.get(id)).toMatchObject({ status: 'running', endsAtMs: longer.endsAtMs });
    await requireNothing(host);
  });
});

describe('LocalControlPlane: idleTimeoutMs', () => {
  const IDLE_MS = 8_000;

  it('pauses an idle sandbox, and an operation resumes it', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true, idleTimeoutMs: IDLE_MS });
    await host.passTime(host.became(id, 'saving'));
    // The idle check runs eight times per idle timeout.
    expect(host.clock.now()).toBeGreaterThanOrEqual(IDLE_MS);
    expect(host.clock.now()).toBeLessThanOrEqual(IDLE_MS * 1.5);
    await host.became(id, 'paused');
    await (await host.guest(id)).remember('a thing');
    expect(await host.control.get(id)).toMatchObject({ status: 'running' });
    await host.passTime(host.became(id, 'paused'));
    await requireNothing(host);
  });

  it.each([
    ['traffic', async (host: FakeHost, id: string): Promise<void> => host.carry(id)],
    ['an operation', async (host: FakeHost, id: string): Promise<void> => void (await host.guest(id))],
    [
      'a model request',
      async (host: FakeHost): Promise<void> => {
        host.models.requests = 1;
      },
    ],
  ] as const)('%s keeps it awake', async (_what, use) => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true, idleTimeoutMs: IDLE_MS });
    for (let ms = 0; ms < IDLE_MS * 4; ms += 1000) {
      await use(host, id);
      host.clock.advance(1000);
      await settle();
    }
    expect(await host.control.get(id)).toMatchObject({ status: 'running' });
    host.models.requests = 0;
    await host.passTime(host.became(id, 'paused'));
    await requireNothing(host);
  });

  it('a failed pause is retried after another idle period', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true, idleTimeoutMs: IDLE_MS });
    host.script.fail('keep-disk');
    await host.passTime(host.became(id, 'saving'));
    const failedMs = host.clock.now();
    await host.passTime(host.became(id, 'paused'));
    expect(host.clock.now() - failedMs).toBeGreaterThanOrEqual(IDLE_RETRY_MS);
    await requireNothing(host);
  });

  it('a sandbox without autoResume stays paused', async () => {
    await using host = await FakeHost.open();
    const request = { boot: true, idleTimeoutMs: IDLE_MS, autoResume: false };
    const { id } = await host.control.create(request);
    await host.passTime(host.became(id, 'paused'));
    await expect(host.control.guest(id)).rejects.toMatchObject({ code: 'not_ready' });
    expect(await host.control.resume(id)).toMatchObject({ status: 'running' });
    await requireNothing(host);
  });
});
