/** Sandboxes with variable memory: growth under memory pressure, and updates by the owner. */
import { describe, expect, it } from 'vitest';
import type { GuestEvent } from '../../src/machine/guest/guest.ts';
import type { CreateRequest, SandboxInfo } from '../../src/sandbox/contract/control.ts';
import type { TimedEvent } from '../../src/sandbox/contract/events.ts';
import { RESERVE_MIB } from '../../src/sandbox/memory/host-guard.ts';
import { FakeHost } from '../support/fake-host.ts';
import { requireNothing } from '../support/fake-leftovers.ts';
import { settle } from '../support/fake-members.ts';

const NEAR: GuestEvent = { type: 'near_oom', memoryBytes: 95, limitBytes: 100 };
const PRESSED: GuestEvent = { type: 'pressure', memoryBytes: 80, limitBytes: 100, highEvents: 1, some: 0, full: 0 };
const SIZE = { memoryMib: 256, memoryMaxMib: 1024 } as const;

async function begin(host: FakeHost, request: CreateRequest = {}): Promise<SandboxInfo> {
  return await host.control.create({ boot: true, ...SIZE, ...request });
}

/** Waits for an event that matches. @returns the events */
async function until(host: FakeHost, id: string, fits: (event: TimedEvent) => boolean): Promise<readonly TimedEvent[]> {
  const seen: TimedEvent[] = [];
  for await (const event of host.control.events(id)) {
    seen.push(event);
    if (fits(event)) return seen;
  }
  throw new Error('it ended before');
}

const isResized = ({ type }: TimedEvent): boolean => type === 'resized';

describe('memoryMaxMib', () => {
  it('the VM has the maximum, the guest the requested size and limits by it', async () => {
    await using host = await FakeHost.open();
    const { id, ...info } = await begin(host);
    expect(info).toMatchObject(SIZE);
    expect(host.vm(id)).toMatchObject({ ramMib: 1024, memoryMib: 256, limited: 1 });
    const fixed = await host.control.create({ boot: true });
    expect(fixed).toMatchObject({ memoryMib: 512, memoryMaxMib: null });
    expect(host.vm(fixed.id)).toMatchObject({ ramMib: 512, balloon: undefined, limited: 0 });
    await requireNothing(host);
  });

  it('a guest that does not fill its balloon runs', async () => {
    await using host = await FakeHost.open();
    const held = host.script.hold('hello');
    const made = begin(host);
    const vm = await held.reached;
    if (vm !== undefined) [vm.isHelpful, vm.memoryMib] = [false, 1024];
    held.release();
    await host.passTime(made);
    const { id } = await made;
    expect(await host.control.get(id)).toMatchObject({ status: 'running', memoryMib: 256 });
  });

  it('pressure: the guest grows, with an event', async () => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    (await host.guest(id)).emit(PRESSED);
    const events = await until(host, id, isResized);
    expect(events.map(({ type }) => type)).toEqual(['pressure', 'resized']);
    expect(events[1]).toMatchObject({ by: 'pressure', fromMib: 256, toMib: 384 });
    expect(await host.control.get(id)).toMatchObject({ memoryMib: 384, memoryMaxMib: 1024 });
    expect(host.vm(id)).toMatchObject({ memoryMib: 384, limited: 2 });
  });

  it('at the maximum the action follows', async () => {
    await using host = await FakeHost.open();
    const { id } = await begin(host, { memoryMaxMib: 300, onMemoryPressure: 'pause' });
    const guest = await host.guest(id);
    guest.emit(NEAR);
    await until(host, id, isResized);
    await settle();
    const paused = host.became(id, 'paused');
    guest.emit(NEAR);
    await paused;
    expect(await host.control.get(id)).toMatchObject({ memoryMib: 300, pausedTo: 'memory' });
  });

  it('a guest that floods reaches its maximum, and no more', async () => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    const guest = await host.guest(id);
    let asked = 0;
    const count = (): void => {
      asked += 1;
      host.script.next('balloon', count);
    };
    host.script.next('balloon', count);
    for (let n = 0; n < 1000; n += 1) {
      guest.emit(n % 2 === 0 ? PRESSED : NEAR);
      host.clock.advance(100);
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await host.control.get(id)).toMatchObject({ memoryMib: 1024 });
    expect(asked).toBe(4);
    host.script.forget();
  });

  it('a host without free memory: no growth, and the sandbox continues', async () => {
    let availableMib = 65_536;
    await using host = await FakeHost.open({ availableMib: () => availableMib });
    const { id } = await begin(host);
    availableMib = 0;
    (await host.guest(id)).emit(PRESSED);
    const events = await until(host, id, ({ type }) => type === 'action');
    expect(events.at(-1)).toMatchObject({ action: 'grow', ok: false });
    expect(await host.control.get(id)).toMatchObject({ status: 'running', memoryMib: 256 });
  });

  it('concurrent growth stays within the host’s memory', async () => {
    let availableMib = 65_536;
    await using host = await FakeHost.open({ availableMib: () => availableMib });
    const ids = [(await begin(host)).id, (await begin(host)).id, (await begin(host)).id];
    const [one = '', two = '', three = ''] = ids;
    for (const id of ids) host.vm(id).isHelpful = false;
    // Granted memory shows in the host's free memory only once it is used.
    availableMib = RESERVE_MIB + 300;
    for (const id of ids) (await host.guest(id)).emit(PRESSED);
    const refused = await until(host, three, ({ type }) => type === 'action');
    expect(refused.at(-1)).toMatchObject({ action: 'grow', ok: false });
    const byHand = host.control.update(three, { memoryMib: 320 });
    await expect(byHand).rejects.toMatchObject({ code: 'memory_unavailable' });
    expect(host.queue.stats().reservedMib).toBe(256);
    for (const id of ids) host.vm(id).memoryMib = 384;
    await host.passTime(Promise.all([one, two].map((id) => until(host, id, isResized))));
    expect(host.queue.stats().reservedMib).toBe(0);
  });

  it('a VM that dies during growth: nothing is left behind', async () => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    host.script.die('balloon');
    const ended = host.became(id, 'ended');
    (await host.guest(id)).emit(PRESSED);
    await ended;
    await requireNothing(host);
  });
});

describe('memory size', () => {
  it('survives a pause to disk, and applies to forks and to sandboxes from a snapshot', async () => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    await host.control.update(id, { memoryMib: 512 });
    await host.control.pause(id, 'disk');
    expect(await host.control.get(id)).toMatchObject({ memoryMib: 512, memoryMaxMib: 1024 });
    await host.control.resume(id);
    expect(host.vm(id)).toMatchObject({ ramMib: 1024, memoryMib: 512 });
    const [fork] = await host.control.fork(id, { count: 1 });
    expect(fork).toMatchObject({ ok: true, sandbox: { memoryMib: 512, memoryMaxMib: 1024 } });
    await host.control.snapshot(id, { name: 'grown' });
    const again = await host.control.create({ snapshot: 'grown' });
    expect(again).toMatchObject({ memoryMib: 512, memoryMaxMib: 1024 });
    expect(host.vm(again.id)).toMatchObject({ ramMib: 1024, memoryMib: 512 });
    await requireNothing(host);
  });

  it('from a snapshot without a maximum: fixed, as the snapshot', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true });
    await host.control.snapshot(id, { name: 'fixed' });
    const again = await host.control.create({ snapshot: 'fixed', memoryMaxMib: 1024 });
    expect(again).toMatchObject({ memoryMib: 512, memoryMaxMib: null });
  });
});

describe('update: memoryMib', () => {
  it('grows, and shrinks by the free memory', async () => {
    await using host = await FakeHost.open();
    const { id } = await begin(host);
    expect(await host.control.update(id, { memoryMib: 1024 })).toMatchObject({ memoryMib: 1024 });
    host.vm(id).availableMib = 700;
    const refused = host.control.update(id, { memoryMib: 350 });
    await expect(refused).rejects.toMatchObject({ code: 'memory_unavailable' });
    expect(await host.control.update(id, { memoryMib: 400 })).toMatchObject({ memoryMib: 400 });
    const events = await until(host, id, ({ seq }) => seq === 2);
    expect(events).toMatchObject([
      { by: 'owner', fromMib: 256, toMib: 1024 },
      { by: 'owner', fromMib: 1024, toMib: 400 },
    ]);
  });

  it('without a maximum, or beyond it: refused', async () => {
    await using host = await FakeHost.open();
    const fixed = await host.control.create({ boot: true });
    for (const id of [fixed.id, (await begin(host)).id]) {
      const refused = host.control.update(id, { memoryMib: 2048 });
      await expect(refused).rejects.toMatchObject({ code: 'spec_invalid' });
    }
  });

  it('onMemoryPressure: grow needs a maximum', async () => {
    await using host = await FakeHost.open();
    const { id } = await begin(host, { onMemoryPressure: 'grow' });
    expect(await host.control.get(id)).toMatchObject({ onMemoryPressure: 'grow' });
    const none = host.control.create({ onMemoryPressure: 'grow' });
    await expect(none).rejects.toMatchObject({ code: 'spec_invalid' });
  });
});
