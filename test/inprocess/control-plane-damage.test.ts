/**
 * Failures while a sandbox is saved, paused, resumed or forked: it continues as before, or it has ended with a cause;
 * partial work is cleaned up.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { CodedError } from '../../src/base/errors.ts';
import type { SandboxInfo } from '../../src/sandbox/contract/control.ts';
import { FakeHost } from '../support/fake-host.ts';
import { NOTHING, NOTHING_STORED, requireNothing } from '../support/fake-leftovers.ts';
import { settle } from '../support/fake-members.ts';
import type { Phase } from '../support/fake-script.ts';

const NO_SPACE = Object.assign(new Error('write'), { code: 'ENOSPC' });

/** A sandbox whose guest remembers something. */
async function begin(host: FakeHost): Promise<SandboxInfo> {
  const made = await host.control.create({ boot: true });
  await (await host.guest(made.id)).remember('a thing');
  return made;
}

async function requireUsable(host: FakeHost, id: string): Promise<void> {
  expect(await (await host.guest(id)).recall()).toBe('a thing');
  for (const to of ['memory', 'disk'] as const) {
    expect(await host.control.pause(id, to)).toMatchObject({ status: 'paused', pausedTo: to });
    expect(await host.control.resume(id)).toMatchObject({ status: 'running', pausedTo: null });
  }
  expect(await (await host.guest(id)).recall()).toBe('a thing');
}

function codesOf(error: unknown): readonly string[] {
  if (!(error instanceof CodedError)) return [];
  return [error.code, ...codesOf(error.cause)];
}

async function refusal(work: Promise<unknown>): Promise<unknown> {
  return await work.then(
    () => Promise.reject(new Error('it was not refused')),
    (error: unknown) => error,
  );
}

const SAVE: readonly Phase[] = ['settle', 'unplug', 'save-state', 'keep-memory', 'keep-disk'];
const WAYS = {
  pause: (host: FakeHost, id: string) => host.control.pause(id, 'disk'),
  snapshot: (host: FakeHost, id: string) => host.control.snapshot(id),
  fork: (host: FakeHost, id: string) => host.control.fork(id, { count: 2 }),
};
const CASES = (['pause', 'snapshot', 'fork'] as const).flatMap((way) =>
  [...SAVE, ...(way === 'fork' ? [] : (['commit'] as const))].map((phase) => [way, phase] as const),
);

describe('LocalControlPlane: a save that fails', () => {
  it.each(CASES)('%s, at %s: the sandbox continues to run', async (way, phase) => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    host.script.fail(phase);
    const error = await refusal(WAYS[way](host, id));
    // A snapshot's VM runs again before its snapshot counts.
    if (way !== 'snapshot' || phase !== 'commit') expect(codesOf(error)).toEqual(['snapshot_failed']);
    expect(await host.control.get(id)).toMatchObject({ status: 'running', pausedTo: null });
    await expect.poll(() => host.stored()).toEqual(NOTHING_STORED);
    await requireUsable(host, id);
    await requireNothing(host);
  });

  it.each(CASES)('%s of a sandbox paused in memory, at %s: it stays paused', async (way, phase) => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    await host.control.pause(id, 'memory');
    host.script.fail(phase);
    await refusal(WAYS[way](host, id));
    expect(await host.control.get(id)).toMatchObject({ status: 'paused', pausedTo: 'memory' });
    expect(host.vm(id).runs).toBe(false);
    await requireUsable(host, id);
    await requireNothing(host);
  });

  it.each(CASES)('%s, the VM dies at %s: the sandbox has ended, with the cause', async (way, phase) => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    host.script.die(phase);
    const outcome = WAYS[way](host, id).catch((error: unknown) => error);
    // From here on the VM is stopped and everything is copied, so nothing is lost.
    const isKept = way === 'pause' && ['keep-memory', 'keep-disk', 'commit'].includes(phase);
    await host.became(id, isKept ? 'paused' : 'ended');
    const done = await outcome;
    if (isKept) {
      expect(done).toMatchObject({ status: 'paused', pausedTo: 'disk' });
      await requireUsable(host, id);
    } else {
      expect(await host.control.get(id)).toMatchObject({ end: { cause: 'vmm-crashed' } });
    }
    await requireNothing(host);
  });

  it('pause, the VM dies while its disk is still copied: nothing is lost', async () => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    const disk = host.script.hold('keep-disk');
    const pausing = host.control.pause(id, 'disk');
    const vm = await disk.reached;
    vm?.die();
    // Time in which the VM's resources would be removed.
    await sleep(200);
    disk.release();
    await pausing;
    await requireUsable(host, id);
    await requireNothing(host);
  });

  it.each(
    (['pause', 'snapshot', 'fork'] as const).flatMap((way) =>
      (['resume', 'plug', 'hello'] as const).map((phase) => [way, phase] as const),
    ),
  )('%s, then a failed %s: the sandbox has ended, and nothing hangs', async (way, phase) => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    if (way === 'pause') host.script.fail('commit');
    host.script.fail(phase);
    const ended = host.became(id, 'ended');
    const error = refusal(WAYS[way](host, id));
    await host.passTime(ended);
    expect(codesOf(await error)[0]).toBe('gone');
    expect(await host.control.get(id)).toMatchObject({ end: { cause: 'agent-lost' } });
    await requireNothing(host);
  });

  it.each([
    ['pause', 'keep-memory'],
    ['pause', 'keep-disk'],
    ['snapshot', 'keep-memory'],
    ['snapshot', 'keep-disk'],
    ['fork', 'keep-disk'],
  ] as const)('%s, the disk is full at %s: reported as disk_full', async (way, phase) => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    host.script.fail(phase, NO_SPACE);
    const error = await refusal(WAYS[way](host, id));
    expect(codesOf(error)[0]).toBe('disk_full');
    expect(error).toMatchObject({ remedy: expect.stringContaining('Free space') });
    await expect.poll(() => host.stored()).toEqual(NOTHING_STORED);
    await requireUsable(host, id);
    await requireNothing(host);
  });

  it('a connection that breaks during a pause ends the sandbox at the resume', async () => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    host.vm(id).loseAgent();
    await host.control.pause(id, 'memory');
    host.clock.advance(500);
    await settle();
    const ended = host.became(id, 'ended');
    await host.control.resume(id);
    await ended;
    expect(await host.control.get(id)).toMatchObject({ end: { cause: 'agent-lost' } });
    await requireNothing(host);
  });
});

describe('LocalControlPlane: a resume that fails', () => {
  const RESUME: readonly Phase[] = ['workspace', 'listen', 'bridge', 'fill-memory', 'copy-disk', 'start', 'hello'];

  it.each(RESUME)('from disk, at %s: the sandbox stays suspended, and can be resumed', async (phase) => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    await host.control.pause(id, 'disk');
    const before = await host.stored();
    host.script.fail(phase);
    const error = await refusal(host.control.resume(id));
    expect(codesOf(error)[0]).toBe('start_failed');
    expect(await host.control.get(id)).toMatchObject({ status: 'paused', pausedTo: 'disk' });
    expect(await host.stored()).toEqual(before);
    expect(await host.holdings()).toEqual(NOTHING);
    // The row has no owner, so any process may resume it.
    expect(await host.store.sandboxes.get(id)).toMatchObject({ ownerJson: null });
    await requireUsable(host, id);
    await requireNothing(host);
  });

  it.each(['start', 'hello'] as const)('from disk, the VM dies at %s: the sandbox stays suspended', async (phase) => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    await host.control.pause(id, 'disk');
    host.script.die(phase);
    await refusal(host.control.resume(id));
    expect(await host.control.get(id)).toMatchObject({ status: 'paused' });
    await requireUsable(host, id);
    await requireNothing(host);
  });

  it('in memory: the sandbox stays paused', async () => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    await host.control.pause(id, 'memory');
    host.script.fail('resume');
    await refusal(host.control.resume(id));
    expect(await host.control.get(id)).toMatchObject({ status: 'paused', pausedTo: 'memory' });
    await requireUsable(host, id);
    await requireNothing(host);
  });

  it('in memory, the VM dies: the sandbox has ended', async () => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    await host.control.pause(id, 'memory');
    host.script.die('resume');
    const ended = host.became(id, 'ended');
    await refusal(host.control.resume(id));
    await ended;
    expect(await host.control.get(id)).toMatchObject({ end: { cause: 'vmm-crashed' } });
    await requireNothing(host);
  });

  it('a guest that refuses the new clock runs', async () => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    await host.control.pause(id, 'memory');
    const held = host.script.hold('update');
    const resuming = host.control.resume(id);
    await held.reached;
    host.clock.advance(5000);
    expect(await resuming).toMatchObject({ status: 'running' });
    held.release();
    await requireNothing(host);
  });
});

describe('LocalControlPlane: forks', () => {
  it.each(['workspace', 'start', 'hello', 'fill-memory', 'copy-disk'] as const)(
    'a fork that fails at %s affects neither the others nor the parent',
    async (phase) => {
      await using host = await FakeHost.open();
      const { id } = await begin(host);
      // The parent resumes with a hello; the one after it belongs to a fork.
      if (phase === 'hello') host.script.next('hello', () => undefined);
      host.script.fail(phase);
      const results = await host.control.fork(id, { count: 4, metadata: { of: id } });
      const ready = results.flatMap((one) => (one.ok ? [one.sandbox] : []));
      const failed = results.flatMap((one) => (one.ok ? [] : [one]));
      expect(failed).toEqual([
        { ok: false, code: 'start_failed', message: expect.stringContaining(`${phase} failed`) },
      ]);
      expect(ready).toHaveLength(3);
      for (const fork of ready) {
        expect(fork).toMatchObject({ origin: 'fork', parent: id, metadata: { of: id } });
        expect(await (await host.guest(fork.id)).recall()).toBe('a thing');
      }
      await expect.poll(() => host.stored()).toEqual(NOTHING_STORED);
      await requireUsable(host, id);
      await requireNothing(host);
    },
  );

  it('on a slow host with one place to start: the last copy waits for the others', async () => {
    await using host = await FakeHost.open({ concurrency: 1 });
    const { id } = await begin(host);
    for (let copy = 0; copy < 4; copy += 1) {
      // Four of these are more than one queue time (60 s).
      host.script.next('start', () => host.clock.advance(25_000));
    }
    const results = await host.control.fork(id, { count: 4 });
    expect(results.map(({ ok }) => ok)).toEqual([true, true, true, true]);
    await requireNothing(host);
  });

  it('of an ended or ending sandbox: refused with a reason', async () => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    const held = host.script.hold('kill');
    const removing = host.control.remove(id);
    await held.reached;
    await expect(host.control.fork(id, { count: 1 })).rejects.toMatchObject({ code: 'gone' });
    held.release();
    await removing;
    await expect(host.control.fork(id, { count: 1 })).rejects.toMatchObject({ code: 'gone' });
    await requireNothing(host);
  });

  it('of a sandbox whose VM has just died: refused with a reason', async () => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    host.vm(id).die();
    const error = await refusal(host.control.fork(id, { count: 1 }));
    expect(['gone', 'snapshot_failed']).toContain(codesOf(error)[0]);
    await requireNothing(host);
  });
});
