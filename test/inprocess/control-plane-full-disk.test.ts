/** A full file system on the host: no silent hang and no data loss. */
import { describe, expect, it } from 'vitest';
import type { TimedEvent } from '../../src/sandbox/contract/events.ts';
import { RETRY_FULL_MS } from '../../src/sandbox/vm/identity.ts';
import { eventually } from '../support/eventually.ts';
import { FakeHost } from '../support/fake-host.ts';
import { settle } from '../support/fake-members.ts';

async function eventsOf(host: FakeHost, id: string): Promise<TimedEvent[]> {
  const seen: TimedEvent[] = [];
  for await (const event of host.control.events(id, { follow: false })) seen.push(event);
  return seen;
}

/** Stalls its VM, and waits until it is paused. */
async function fill(host: FakeHost, id: string): Promise<void> {
  const paused = host.became(id, 'paused');
  host.vm(id).stall();
  await paused;
  await settle();
}

describe("the host's file system is full", () => {
  it('a stopped VM is paused with a reason, and resumes when there is room', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true });
    await (await host.guest(id)).remember('all of it');
    await fill(host, id);
    expect(await host.control.get(id)).toMatchObject({ status: 'paused', pausedTo: 'memory' });
    expect(await eventsOf(host, id)).toMatchObject([
      { type: 'disk_full', path: '/run/disk.ext4', freeBytes: 0 },
      { type: 'action', action: 'pause', ok: true },
    ]);
    await host.control.resume(id);
    expect(await host.control.get(id)).toMatchObject({ status: 'running' });
    expect(await (await host.guest(id)).recall()).toBe('all of it');
  });

  it('a VM that stopped before its first listener is paused, too', async () => {
    await using host = await FakeHost.open({
      watch: (made) =>
        made.onTransition(({ state }) => {
          if (state === 'ready') host.vm(made.spec.id).stall();
        }),
    });
    const { id } = await host.control.create({ boot: true });
    await eventually(async () => expect(await host.control.get(id)).toMatchObject({ pausedTo: 'memory' }));
  });

  it('a resume without room pauses it again', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true });
    await fill(host, id);
    host.vm(id).isHostFull = true;
    const paused = host.became(id, 'paused');
    const resumed = host.control.resume(id);
    // The guest's clock cannot be set then.
    await host.passTime(Promise.all([resumed, paused]));
    await settle();
    const events = await eventsOf(host, id);
    expect(events.filter(({ type }) => type === 'disk_full')).toHaveLength(2);
    await host.control.remove(id);
  });

  it('an operation resumes it once; without room it fails, and the sandbox stays paused', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true });
    await fill(host, id);
    host.vm(id).isHostFull = true;
    const clock = host.script.hold('update');
    const refused = expect(host.guest(id)).rejects.toMatchObject({
      code: 'disk_full',
      message: `sandbox ${id} is paused: the host's file system that holds its disk is full`,
      remedy: `free space there, then continue with: neurovisor resume ${id}`,
    });
    await host.passTime(refused);
    clock.release();
    expect(await host.control.get(id)).toMatchObject({ status: 'paused', pausedTo: 'memory' });
    const events = await eventsOf(host, id);
    expect(events.filter(({ type }) => type === 'disk_full')).toHaveLength(2);
    host.vm(id).isHostFull = false;
    await host.guest(id);
    expect(await host.control.get(id)).toMatchObject({ status: 'running' });
  });

  it('a resume does not start its timeout anew', async () => {
    await using host = await FakeHost.open();
    const { id, endsAtMs } = await host.control.create({ boot: true, timeoutMs: 60_000 });
    await fill(host, id);
    host.clock.advance(20_000);
    expect(await host.control.resume(id)).toMatchObject({ status: 'running', endsAtMs });
    expect(endsAtMs).not.toBeNull();
    const ended = host.became(id, 'ended');
    host.clock.advance(40_000);
    await ended;
  });

  it('onTimeout pause: it is paused to disk if there is room by then', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true, timeoutMs: 60_000, onTimeout: 'pause' });
    await (await host.guest(id)).remember('all of it');
    await fill(host, id);
    host.clock.advance(60_000);
    await eventually(async () => expect(await host.control.get(id)).toMatchObject({ pausedTo: 'disk' }));
    expect(await host.control.get(id)).toMatchObject({ status: 'paused', pauseReason: 'timeout' });
    expect(await (await host.guest(id)).recall()).toBe('all of it');
  });

  it('the timeout keeps counting, and ends it', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true, timeoutMs: 60_000 });
    await fill(host, id);
    const ended = host.became(id, 'ended');
    host.clock.advance(60_000);
    await ended;
    expect(await host.control.get(id)).toMatchObject({ end: { cause: 'timeout' } });
  });

  it('a start fails at once, and names the full file system', async () => {
    await using host = await FakeHost.open();
    const hello = host.script.hold('hello');
    const starting = host.control.create({ boot: true });
    await hello.reached;
    const [vm] = host.vms();
    vm?.stall();
    await expect(starting).rejects.toMatchObject({
      code: 'disk_full',
      message: 'the sandbox could not be started: the disk is full',
      cause: { message: expect.stringContaining('/run/disk.ext4 is full (0 bytes are free)') },
      remedy: expect.stringContaining('free space'),
    });
    hello.release();
  });

  it('a clone that finds no room boots instead; if that finds none, either, the error says so', async () => {
    await using host = await FakeHost.open();
    const full = (): Error => Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });
    host.script.fail('copy-disk', full());
    expect(await host.control.create({})).toMatchObject({ origin: 'boot' });
    host.script.fail('copy-disk', full());
    host.script.fail('overlay', full());
    await expect(host.control.create({})).rejects.toMatchObject({
      code: 'disk_full',
      message: 'the sandbox could not be started: the disk is full',
      cause: { message: 'ENOSPC: no space left on device' },
      remedy: expect.stringMatching(/neurovisor prune.*neurovisor rm/),
    });
    expect(await host.control.list()).toHaveLength(1);
  });

  it('during a save the VM waits for room, and is not paused', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true });
    const hello = host.script.hold('hello');
    const saved = host.control.snapshot(id);
    await hello.reached;
    host.vm(id).stall();
    const resumed = host.script.hold('resume');
    host.clock.advance(RETRY_FULL_MS);
    await resumed.reached;
    resumed.release();
    await settle();
    hello.release();
    await saved;
    await settle();
    expect(await host.control.get(id)).toMatchObject({ status: 'running' });
    expect(host.vm(id).runs).toBe(true);
  });

  it('an I/O error of the guest becomes an event', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true });
    host.vm(id).failDisk();
    await settle();
    expect(await eventsOf(host, id)).toMatchObject([{ type: 'disk_error', freeBytes: null }]);
    expect(await host.control.get(id)).toMatchObject({ status: 'running' });
  });
});
