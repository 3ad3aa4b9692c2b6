/** No sandbox outlives its timeout by more than the grace of a pause, whatever its guest and VMM do. No VMs. */
import { describe, expect, it } from 'vitest';
import type { LogFields } from '../../src/base/log.ts';
import { PAUSE_GRACE_MS } from '../../src/sandbox/plane/lifetime.ts';
import { FakeHost } from '../support/fake-host.ts';
import { requireNothing } from '../support/fake-leftovers.ts';
import { settle } from '../support/fake-members.ts';
import type { Phase } from '../support/fake-script.ts';

const TIMEOUT_MS = 10_000;
const STEP_MS = 1000;
const REQUEST = { boot: true, timeoutMs: TIMEOUT_MS, onTimeout: 'pause' } as const;

interface Logged {
  readonly message: string;
  readonly fields: LogFields | undefined;
}

interface Watched {
  readonly host: FakeHost;
  readonly id: string;
  readonly warnings: readonly Logged[];
}

async function open(): Promise<Watched> {
  const warnings: Logged[] = [];
  const host = await FakeHost.open({ warn: (message, fields) => void warnings.push({ message, fields }) });
  const { id } = await host.control.create(REQUEST);
  return { host, id, warnings };
}

/** Advances the clock in steps, so that work between timers is done. */
async function passMs(host: FakeHost, ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += STEP_MS) {
    host.clock.advance(STEP_MS);
    for (let turn = 0; turn < 5; turn++) await settle();
  }
}

async function requireTimeout({ host, id, warnings }: Watched, reason: RegExp): Promise<void> {
  await expect.poll(() => host.control.get(id)).toMatchObject({ status: 'ended' });
  expect(await host.control.get(id)).toMatchObject({ end: { cause: 'timeout' } });
  expect(warnings).toContainEqual({
    message: 'a sandbox is killed: it could not be paused after its timeout',
    fields: { sandbox: id, reason: expect.stringMatching(reason) },
  });
  host.script.onStep = undefined;
  await requireNothing(host);
}

describe('LocalControlPlane: onTimeout pause', () => {
  it.each(['settle', 'unplug', 'save-state'] as const)(
    'ends a sandbox whose %s never answers, when the grace is over',
    async (phase) => {
      const watched = await open();
      await using host = watched.host;
      const held = host.script.hold(phase);
      await passMs(host, TIMEOUT_MS);
      await held.reached;
      await passMs(host, PAUSE_GRACE_MS - STEP_MS);
      expect(await host.control.get(watched.id)).toMatchObject({ status: 'saving' });
      await passMs(host, STEP_MS);
      await requireTimeout(watched, /did not succeed within 120 s/);
    },
  );

  it.each(['resume', 'plug', 'hello'] as const)(
    'ends a sandbox whose %s never answers after a failed save',
    async (phase) => {
      const watched = await open();
      await using host = watched.host;
      host.script.fail('keep-memory');
      const held = host.script.hold(phase);
      await passMs(host, TIMEOUT_MS);
      await held.reached;
      await passMs(host, PAUSE_GRACE_MS);
      await requireTimeout(watched, /did not succeed within 120 s/);
    },
  );

  it.each(['settle', 'keep-memory', 'keep-disk', 'commit'] as const)(
    'ends a sandbox whose %s always fails, when the grace is over',
    async (phase) => {
      const watched = await open();
      await using host = watched.host;
      host.script.onStep = async (reached: Phase) => {
        if (reached === phase) throw new Error(`${phase} refused`);
      };
      await passMs(host, TIMEOUT_MS);
      // The store's files are real, so no fake clock covers their time.
      await expect.poll(() => watched.warnings.length).toBe(1);
      await passMs(host, PAUSE_GRACE_MS);
      await requireTimeout(watched, new RegExp(`${phase} refused`));
    },
  );

  it.each(['pause', 'kill'] as const)(
    'ends (%s) a sandbox that was paused in memory and runs for a snapshot whose hello never comes',
    async (onTimeout) => {
      const host = await FakeHost.open();
      await using opened = host;
      const { id } = await host.control.create({ ...REQUEST, onTimeout });
      await host.control.pause(id, 'memory');
      await passMs(host, 2 * (TIMEOUT_MS + PAUSE_GRACE_MS));
      expect(await host.control.get(id)).toMatchObject({ status: 'paused', endsAtMs: null });
      const held = opened.script.hold('hello');
      const saving = expect(host.control.snapshot(id)).rejects.toMatchObject({ code: 'gone' });
      await held.reached;
      await passMs(host, TIMEOUT_MS + PAUSE_GRACE_MS);
      await saving;
      expect(await host.control.get(id)).toMatchObject({ end: { cause: 'timeout' } });
      await requireNothing(host);
    },
  );

  it('a sandbox that is paused in memory again after a snapshot has no deadline', async () => {
    const { host: opened, id } = await open();
    await using host = opened;
    await host.control.pause(id, 'memory');
    await host.control.snapshot(id);
    await passMs(host, 2 * (TIMEOUT_MS + PAUSE_GRACE_MS));
    expect(await host.control.get(id)).toMatchObject({ status: 'paused', endsAtMs: null });
    await requireNothing(host);
  });

  it('ends a sandbox whose snapshot is in progress at the timeout and never ends', async () => {
    const watched = await open();
    await using host = watched.host;
    const held = host.script.hold('settle');
    const saving = expect(host.control.snapshot(watched.id)).rejects.toMatchObject({ code: 'gone' });
    await held.reached;
    await passMs(host, TIMEOUT_MS + PAUSE_GRACE_MS);
    await saving;
    await requireTimeout(watched, /did not succeed within 120 s/);
  });

  it('pauses after a snapshot that was in progress at the timeout', async () => {
    const { host: opened, id } = await open();
    await using host = opened;
    const held = host.script.hold('settle');
    const saving = host.control.snapshot(id);
    await held.reached;
    await passMs(host, TIMEOUT_MS + PAUSE_GRACE_MS / 2);
    held.release();
    await saving;
    await expect.poll(() => host.control.get(id)).toMatchObject({ status: 'paused' });
    await passMs(host, PAUSE_GRACE_MS);
    expect(await host.control.get(id)).toMatchObject({ status: 'paused', pausedTo: 'disk' });
    await requireNothing(host);
  });

  it('keeps a sandbox that is saved at the end of the grace while its VM is still released', async () => {
    const { host: opened, id } = await open();
    await using host = opened;
    const held = host.script.hold('kill');
    await passMs(host, TIMEOUT_MS);
    await held.reached;
    await passMs(host, PAUSE_GRACE_MS);
    held.release();
    await expect.poll(() => host.control.get(id)).toMatchObject({ status: 'paused' });
    expect(await host.control.resume(id)).toMatchObject({ status: 'running' });
    await requireNothing(host);
  });

  it('ends a sandbox that a full disk stopped, when the grace is over', async () => {
    const watched = await open();
    await using host = watched.host;
    const paused = host.became(watched.id, 'paused');
    host.vm(watched.id).stall();
    await paused;
    // The save runs it again, and its guest stops before it answers.
    const held = host.script.hold('settle');
    await passMs(host, TIMEOUT_MS);
    await held.reached;
    await passMs(host, PAUSE_GRACE_MS);
    await requireTimeout(watched, /did not succeed within 120 s/);
  });

  it('keeps a sandbox whose timeout was extended during the grace', async () => {
    const { host: opened, id } = await open();
    await using host = opened;
    const held = host.script.hold('settle');
    await passMs(host, TIMEOUT_MS);
    await held.reached;
    await host.control.update(id, { timeoutMs: 3_600_000 });
    await passMs(host, PAUSE_GRACE_MS);
    const back = host.became(id, 'running');
    held.release(new Error('no'));
    await back;
    expect(await host.control.get(id)).toMatchObject({ status: 'running' });
    await requireNothing(host);
  });
});
