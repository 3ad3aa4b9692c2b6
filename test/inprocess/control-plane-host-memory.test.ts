/** The host's memory gets short: what the guard ends, pauses and refuses, and how owners learn of it. No VMs. */
import { mkdtemp, mkdtempDisposable, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { sleep } from '../../src/base/clock.ts';
import { MIB } from '../../src/base/units.ts';
import { SealedRam } from '../../src/host/runtime/ram/sealed-ram.ts';
import type { CreateRequest, SandboxInfo } from '../../src/sandbox/contract/control.ts';
import type { TimedEvent } from '../../src/sandbox/contract/events.ts';
import { IDLE_MS_MIN, type MemoryShort, memoryMarks, RESERVE_MIB } from '../../src/sandbox/memory/host-guard.ts';
import { GUARD_LIMITS, MemoryGuard, type MemoryGuardParts } from '../../src/sandbox/plane/memory-guard.ts';
import { MEMORY_POLL_MS } from '../../src/sandbox/start/start-queue.ts';
import { eventually } from '../support/eventually.ts';
import { FakeHost, type FakeHostOptions } from '../support/fake-host.ts';
import { requireNothing } from '../support/fake-leftovers.ts';
import { settle } from '../support/fake-members.ts';

const PLENTY = 60_000;
const SHORT = RESERVE_MIB / 2 - 1;

const NO_SHARED_RAM = { unusedBytes: 0, dropUnused: () => Promise.resolve() };

/** Clones are admitted with 100 MiB. */
const SHARING: FakeHostOptions = { mapsMemory: true, sizes: { canShare: () => true, expectedMib: () => 100 } };

class World implements AsyncDisposable {
  readonly host: FakeHost;
  readonly log: string[] = [];
  readonly guard: MemoryGuard;
  readonly memory: { mib: number };

  static async open(
    policy: MemoryShort = 'pause',
    options: FakeHostOptions = {},
    sharedRam: MemoryGuardParts['sharedRam'] = NO_SHARED_RAM,
  ): Promise<World> {
    const memory = { mib: PLENTY };
    const host = await FakeHost.open({ ...options, availableMib: () => memory.mib });
    return new World(host, memory, policy, sharedRam);
  }

  private constructor(
    host: FakeHost,
    memory: { mib: number },
    policy: MemoryShort,
    sharedRam: MemoryGuardParts['sharedRam'],
  ) {
    this.host = host;
    this.memory = memory;
    const note = (text: string): void => void this.log.push(text);
    this.guard = new MemoryGuard({
      clock: host.clock,
      log: { error: note, warn: note, info: note, debug: note },
      host: host.control.guarded,
      queue: host.queue,
      policy,
      marks: memoryMarks(RESERVE_MIB),
      availableMib: () => memory.mib,
      sharedRam,
    });
    this.guard.start();
  }

  async create(request: CreateRequest = {}): Promise<SandboxInfo> {
    return await this.host.control.create({ boot: true, ...request });
  }

  /** Marks the sandbox as used now, and no other later. */
  async use(id: string): Promise<void> {
    await this.host.control.guest(id);
    this.host.clock.advance(1000);
  }

  async events(id: string): Promise<TimedEvent[]> {
    const seen: TimedEvent[] = [];
    for await (const event of this.host.control.events(id, { follow: false })) seen.push(event);
    return seen;
  }

  /** The next check, and everything that follows from it. */
  async look(): Promise<void> {
    this.host.clock.advance(GUARD_LIMITS.lookMs);
    await settle();
  }

  async recover(): Promise<void> {
    this.memory.mib = PLENTY;
    await this.lookUntil(() => this.log.at(-1)?.includes('is enough again') === true);
  }

  /** Checks repeatedly. Pauses take real time, for their files, and must not meet limits of the fake clock. */
  async lookUntil(isDone: () => boolean | Promise<boolean>): Promise<void> {
    while (!(await isDone())) {
      await this.look();
      await sleep(10);
    }
  }

  async lookUntilPaused(id: string): Promise<void> {
    const paused = this.host.became(id, 'paused');
    // At the first checks, earlier work may still be under way.
    await this.lookUntil(async () => (await this.host.control.get(id)).status !== 'running');
    await paused;
    await settle();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.guard.close();
    await this.host[Symbol.asyncDispose]();
  }
}

describe('MemoryGuard', () => {
  it('does nothing while memory is enough, even below the reserve of starts', async () => {
    await using world = await World.open();
    const { id } = await world.create();
    world.memory.mib = RESERVE_MIB / 2;
    for (let n = 0; n < 10; n += 1) await world.look();
    expect(await world.host.control.get(id)).toMatchObject({ status: 'running' });
    expect(world.log).toEqual([]);
    await world.guard.close();
    await requireNothing(world.host);
  });

  it('pauses the longest idle sandboxes to disk, one at a time, until memory is enough', async () => {
    await using world = await World.open();
    const { control } = world.host;
    const ids = [(await world.create()).id, (await world.create()).id, (await world.create()).id];
    const [first = '', second = '', third = ''] = ids;
    for (const id of [second, first, third]) await world.use(id);
    await (await world.host.guest(third)).remember('a thing');
    world.memory.mib = SHORT;
    await world.lookUntilPaused(second);
    expect(await control.get(first)).toMatchObject({ status: 'running', pauseReason: null });
    // Between the marks memory is still short.
    world.memory.mib = RESERVE_MIB;
    await world.lookUntilPaused(first);
    world.memory.mib = RESERVE_MIB * 1.25;
    for (let n = 0; n < 5; n += 1) await world.look();
    expect(await control.get(third)).toMatchObject({ status: 'running' });
    for (const id of [first, second]) {
      expect(await control.get(id)).toMatchObject({ pausedTo: 'disk', pauseReason: 'host-memory' });
      const detail = expect.stringMatching(/^the memory of the host was short: \d+ MiB/);
      expect(await world.events(id)).toMatchObject([{ type: 'action', action: 'pause', ok: true, detail }]);
    }
    expect(world.log).toEqual([
      'the memory of the host is short: a sandbox was paused to disk',
      'the memory of the host is short: a sandbox was paused to disk',
      'the memory of the host is enough again',
    ]);
    world.memory.mib = PLENTY;
    await control.guest(second);
    expect(await control.get(second)).toMatchObject({ status: 'running', pauseReason: null });
    await world.guard.close();
    await requireNothing(world.host);
  });

  it.each<MemoryShort>(['pause', 'refuse'])('%s: drops unused shared memory first, and none in use', async (policy) => {
    await using temporary = await mkdtempDisposable(join(tmpdir(), 'nv-shared-ram-'));
    const ram = new SealedRam();
    const mapped = ['one', 'two'].map(async (name) => {
      const path = join(temporary.path, name);
      await writeFile(path, Buffer.alloc(MIB, name));
      const memory = await ram.map({ path }, 'us');
      await memory.ready;
      return memory;
    });
    const [one, two] = await Promise.all(mapped);
    await two?.close();
    await using world = await World.open(policy, {}, ram);
    const { control, clock } = world.host;
    const { id } = await world.create();
    await world.look();
    expect(ram.bytes).toBe(2 * MIB);
    world.memory.mib = SHORT;
    await world.look();
    expect(ram.bytes).toBe(MIB);
    expect(await control.get(id)).toMatchObject({ status: 'running' });
    // The freed memory was not enough.
    if (policy === 'pause') await world.lookUntilPaused(id);
    else await world.lookUntil(() => world.log.length === 2);
    expect(world.log).toEqual([
      'the memory of the host is short: shared memory without a user is dropped',
      policy === 'pause'
        ? 'the memory of the host is short: a sandbox was paused to disk'
        : 'the memory of the host is short: starts and growth are refused',
    ]);
    clock.advance(GUARD_LIMITS.lookMs);
    expect(ram.bytes).toBe(MIB);
    await one?.close();
    await ram.close();
    await world.guard.close();
    await requireNothing(world.host);
  });

  it('a start that waits for memory gets unused shared memory, and no sandbox is paused for it', async () => {
    const unused = {
      unusedBytes: 170 * MIB,
      dropUnused: async () => {
        world.memory.mib += unused.unusedBytes / MIB;
        unused.unusedBytes = 0;
      },
    };
    await using world = await World.open('pause', SHARING, unused);
    const { control, clock } = world.host;
    const { id } = await control.create({});
    clock.advance(IDLE_MS_MIN);
    world.memory.mib = RESERVE_MIB + 99;
    const waiting = (): number => world.host.queue.stats().waiting;
    const clone = control.create({});
    await eventually(async () => expect(waiting()).toBe(1));
    const boot = control.create({ boot: true });
    await eventually(async () => expect(waiting()).toBe(2));
    for (let n = 0; n * GUARD_LIMITS.lookMs < GUARD_LIMITS.memoryWaitMs; n += 1) {
      expect(unused.unusedBytes).toBeGreaterThan(0);
      await world.look();
    }
    await world.lookUntil(() => waiting() === 1);
    expect(await clone).toMatchObject({ status: 'running' });
    // The other one is large, and new.
    clock.advance(2 * GUARD_LIMITS.memoryWaitMs);
    await world.look();
    expect(await control.get(id)).toMatchObject({ status: 'running' });
    expect(world.log).toEqual(['the memory of the host is short: shared memory without a user is dropped']);
    world.memory.mib = PLENTY;
    await world.host.passTime(boot);
    await world.guard.close();
    await requireNothing(world.host);
  });

  it('ends pool members first, which come back with the memory', async () => {
    await using world = await World.open();
    const { control } = world.host;
    const { id } = await world.create();
    await control.setPool({ min: 2, max: 2 });
    await expect.poll(async () => (await control.pools())[0]?.ready).toBe(2);
    world.memory.mib = SHORT;
    await world.lookUntil(async () => (await control.get(id)).status === 'paused');
    await settle();
    expect(world.log.slice(0, 3)).toEqual([
      'the memory of the host is short: an idle member of a pool is ended',
      'the memory of the host is short: an idle member of a pool is ended',
      'the memory of the host is short: a sandbox was paused to disk',
    ]);
    expect((await control.pools())[0]).toMatchObject({ ready: 0, discarded: 0 });
    await world.recover();
    const isFull = async (): Promise<void> => expect((await control.pools())[0]?.ready).toBe(2);
    await world.host.passTime(eventually(isFull));
    await world.guard.close();
    await requireNothing(world.host);
  });

  it('a sandbox that can not be paused continues, and the next is tried; then starts are refused', async () => {
    await using world = await World.open();
    const { control, script } = world.host;
    const [first, second] = [(await world.create()).id, (await world.create()).id];
    for (const id of [first, second]) await world.use(id);
    world.memory.mib = SHORT;
    script.fail('keep-memory', Object.assign(new Error('no space left'), { code: 'ENOSPC' }));
    await world.look();
    await expect.poll(() => world.events(first)).toMatchObject([{ action: 'pause', ok: false }]);
    expect(await control.get(first)).toMatchObject({ status: 'running', pauseReason: null });
    await world.lookUntilPaused(second);
    const refused = { code: 'busy', retryAfterMs: 5000 };
    const waiting = expect(world.create()).rejects.toMatchObject(refused);
    await world.look();
    await waiting;
    await expect(world.create()).rejects.toMatchObject(refused);
    await expect(control.guest(second)).rejects.toThrow(/the memory of the host is short: 255 MiB/);
    expect(world.log.at(-1)).toBe('the memory of the host is short: starts and growth are refused');
    // Its pause is retried later.
    world.host.clock.advance(GUARD_LIMITS.holdOffMs);
    await settle();
    await world.lookUntilPaused(first);
    await world.recover();
    expect(await world.create()).toMatchObject({ status: 'running' });
    await world.guard.close();
    await requireNothing(world.host);
  });

  it('a slow pause does not keep the others from being paused, and the events report both', async () => {
    await using world = await World.open();
    const { control, script } = world.host;
    const [first, second] = [(await world.create()).id, (await world.create()).id];
    for (const id of [first, second]) await world.use(id);
    const held = script.hold('keep-memory');
    world.memory.mib = SHORT;
    await world.look();
    await held.reached;
    const paused = world.host.became(second, 'paused');
    await world.host.passTime(paused);
    expect(await control.get(first)).toMatchObject({ status: 'saving' });
    held.release();
    await world.host.passTime(world.host.became(first, 'paused'));
    await settle();
    const told = [
      { action: 'pause', ok: false },
      { action: 'pause', ok: true },
    ];
    expect(await world.events(first)).toMatchObject(told);
    await world.guard.close();
    await requireNothing(world.host);
  });

  it('paused in memory: last, and its memory is freed', async () => {
    await using world = await World.open();
    const { control } = world.host;
    const [first, second] = [(await world.create()).id, (await world.create()).id];
    await control.pause(first, 'memory');
    world.memory.mib = SHORT;
    await world.lookUntilPaused(second);
    expect(await control.get(first)).toMatchObject({ pausedTo: 'memory', pauseReason: null });
    await world.look();
    await expect.poll(() => control.get(first)).toMatchObject({ pausedTo: 'disk' });
    world.memory.mib = PLENTY;
    await world.look();
    await world.guard.close();
    await requireNothing(world.host);
  });

  it('resuming a paused sandbox pauses one that was idle for long', async () => {
    await using world = await World.open();
    const { control, clock } = world.host;
    const [first, second] = [(await world.create()).id, (await world.create()).id];
    await control.pause(first, 'disk');
    clock.advance(IDLE_MS_MIN);
    await settle();
    // Enough for the running sandboxes, but not for a whole additional one.
    world.memory.mib = RESERVE_MIB + 100;
    const used = control.guest(first);
    await world.lookUntil(async () => (await control.get(second)).status === 'paused');
    world.memory.mib = RESERVE_MIB + 600;
    await world.host.passTime(used);
    expect(await control.get(first)).toMatchObject({ status: 'running' });
    expect(await control.get(second)).toMatchObject({ pauseReason: 'host-memory' });
    await world.guard.close();
    await requireNothing(world.host);
  });

  it('refuse: pauses nothing, and refuses starts and growth', async () => {
    await using world = await World.open('refuse');
    const { control } = world.host;
    const { id } = await world.create({ memoryMib: 256, memoryMaxMib: 512 });
    world.memory.mib = SHORT;
    await world.look();
    await expect(world.create()).rejects.toMatchObject({ code: 'busy' });
    const growth = control.update(id, { memoryMib: 300 });
    await expect(growth).rejects.toMatchObject({ code: 'memory_unavailable' });
    expect(await control.get(id)).toMatchObject({ status: 'running', memoryMib: 256 });
    await world.recover();
    expect(await world.create()).toMatchObject({ status: 'running' });
    await world.guard.close();
    await requireNothing(world.host);
  });

  it('without automatic resume the error and the next process say why it is paused', async () => {
    const dataDir = await mkdtemp(join(tmpdir(), 'nv-host-memory-'));
    let id = '';
    {
      await using world = await World.open('pause', { dataDir });
      ({ id } = await world.create({ autoResume: false }));
      world.memory.mib = SHORT;
      await world.lookUntilPaused(id);
      const used = world.host.control.guest(id);
      await expect(used).rejects.toThrow('it is paused because the memory of the host was short');
    }
    {
      await using host = await FakeHost.open({ dataDir });
      expect(await host.control.get(id)).toMatchObject({ pauseReason: 'host-memory' });
      expect(await host.control.resume(id)).toMatchObject({ status: 'running', pauseReason: null });
      await host.control.pause(id, 'disk');
      expect(await host.control.get(id)).toMatchObject({ pausedTo: 'disk', pauseReason: null });
      await requireNothing(host);
    }
    await rm(dataDir, { recursive: true });
  });

  it('closing does not wait for a pause under way', async () => {
    await using world = await World.open();
    const { script } = world.host;
    await world.create();
    const held = script.hold('keep-memory');
    world.memory.mib = SHORT;
    await world.look();
    await held.reached;
    await world.guard.close();
    held.release();
    await settle();
    await requireNothing(world.host);
  });

  it('a start waits until memory is enough again: it does not take the memory that a pause has freed', async () => {
    await using world = await World.open('pause', SHARING);
    const { control, script } = world.host;
    const { id } = await control.create({});
    const held = script.hold('keep-memory');
    world.memory.mib = SHORT;
    await world.look();
    await held.reached;
    // Room for this one, and still short.
    world.memory.mib = RESERVE_MIB * 1.25 - 1;
    await world.look();
    const waiting = control.create({});
    await settle();
    expect(world.host.queue.stats()).toMatchObject({ waiting: 1, running: 0 });
    // Other sandboxes may end while a pause takes long.
    world.memory.mib = PLENTY;
    await world.look();
    expect(await waiting).toMatchObject({ status: 'running' });
    held.release();
    await world.host.passTime(world.host.became(id, 'paused'));
    expect(await control.get(id)).toMatchObject({ pauseReason: 'host-memory' });
    await world.guard.close();
    await requireNothing(world.host);
  });

  it.each<MemoryShort>(['pause', 'refuse'])(
    '%s: starts continue with the reserve free if nothing can free more',
    async (policy) => {
      await using world = await World.open(policy, SHARING);
      const { control } = world.host;
      await control.remove((await control.create({})).id);
      world.memory.mib = SHORT;
      await world.look();
      await expect(control.create({})).rejects.toMatchObject({ code: 'busy' });
      world.memory.mib = RESERVE_MIB + 100;
      await world.look();
      const { id } = await control.create({});
      for (let n = 0; n < 5; n += 1) await world.look();
      expect(await control.get(id)).toMatchObject({ status: 'running' });
      await world.guard.close();
      await requireNothing(world.host);
    },
  );

  it('memory that can not be read is no shortage, and ends nothing', async () => {
    await using world = await World.open();
    const { id } = await world.create();
    const { queue, clock, control } = world.host;
    let isBroken = true;
    const guard = new MemoryGuard({
      ...{ clock, queue, host: control.guarded, policy: 'pause', marks: memoryMarks(RESERVE_MIB) },
      sharedRam: NO_SHARED_RAM,
      log: { error: () => {}, warn: () => {}, info: () => {}, debug: () => {} },
      availableMib: () => {
        if (isBroken) throw Object.assign(new Error('too many open files'), { code: 'EMFILE' });
        return SHORT;
      },
    });
    guard.start();
    for (let n = 0; n < 3; n += 1) await world.look();
    expect(await control.get(id)).toMatchObject({ status: 'running' });
    isBroken = false;
    await world.lookUntilPaused(id);
    await guard.close();
    await world.guard.close();
    await requireNothing(world.host);
  });
});

describe('admission', () => {
  const sizes = { canShare: () => true, expectedMib: () => 100 };

  it('a clone that shares its RAM is admitted with its expected memory, anything else with its size', async () => {
    const availableMib = (): number => RESERVE_MIB + 120;
    await using host = await FakeHost.open({ mapsMemory: true, sizes, availableMib });
    const { control } = host;
    const { id } = await control.create({});
    await control.setPool({ min: 1, max: 1 });
    await eventually(async () => expect((await control.pools())[0]?.ready).toBe(1));
    await control.setPool({ min: 0, max: 0 });
    const [fork] = await control.fork(id, { count: 1 });
    expect(fork?.ok).toBe(true);
    const boot = control.create({ boot: true, queueTimeoutMs: 1000 });
    await host.passTime(expect(boot).rejects.toMatchObject({ code: 'busy' }));
    await requireNothing(host);
  });

  it('concurrent clones count the copy of the template’s RAM once, and its growth', async () => {
    const ram = { missingMib: 170, availableMib: RESERVE_MIB + 170 + 2 * 100 - 1 };
    const groups: string[] = [];
    const sharedNeed = (_path: string, sharers: string) => {
      groups.push(sharers);
      return { key: sharers, missingMib: () => ram.missingMib };
    };
    const availableMib = (): number => ram.availableMib;
    await using host = await FakeHost.open({ mapsMemory: true, sizes, availableMib, sharedNeed });
    const { control, script } = host;
    const first = script.hold('map-memory');
    const starts = [control.create({}), control.create({})];
    await first.reached;
    await settle();
    // Room for the copy and one clone, however many want it.
    expect(host.queue.stats()).toMatchObject({ running: 1, waiting: 1, reservedMib: 270 });
    ram.availableMib += 1;
    host.clock.advance(MEMORY_POLL_MS);
    await settle();
    expect(host.queue.stats()).toMatchObject({ running: 2, waiting: 0, reservedMib: 370 });
    ram.missingMib = 0;
    first.release();
    await Promise.all(starts);
    ram.availableMib = RESERVE_MIB + 100;
    await control.create({});
    // A boot, or a copy, shares nothing.
    const boot = control.create({ boot: true, queueTimeoutMs: 1000 });
    await host.passTime(expect(boot).rejects.toMatchObject({ code: 'busy' }));
    expect(groups).toEqual(['local', 'local', 'local']);
    await requireNothing(host);
  });

  it('a start from a snapshot or a pause may have to bring the RAM that it maps, by its digest', async () => {
    const digests: (string | undefined)[] = [];
    const sharedNeed = (_path: string, sharers: string, digest?: string) => {
      digests.push(digest);
      return { key: `${sharers} ${digest}`, missingMib: () => (digest === undefined ? 0 : 170) };
    };
    const ram = { availableMib: RESERVE_MIB + 270 };
    const availableMib = (): number => ram.availableMib;
    const options = { mapsMemory: 'differences', sizes, availableMib, sharedNeed } as const;
    await using host = await FakeHost.open(options);
    const { control } = host;
    const { id } = await control.create({});
    await control.snapshot(id, { name: 'kept' });
    await control.pause(id, 'disk');
    await control.resume(id);
    await control.create({ snapshot: 'kept' });
    const { base } = (await host.store.snapshots.get('kept')).files;
    expect(base).toBeDefined();
    expect(digests).toEqual([undefined, base, base]);
    ram.availableMib -= 1;
    const waiting = control.create({ snapshot: 'kept', queueTimeoutMs: 1000 });
    await host.passTime(expect(waiting).rejects.toMatchObject({ code: 'busy' }));
    // Forks map their parent's RAM.
    const [fork] = await control.fork(id, { count: 1 });
    expect(fork?.ok).toBe(true);
    await requireNothing(host);
  });

  it('a size that the host can never provide is refused at once', async () => {
    await using host = await FakeHost.open({ mapsMemory: true, sizes });
    const huge = host.control.create({ memoryMib: 65_536 - RESERVE_MIB + 128 });
    await expect(huge).rejects.toMatchObject({ code: 'spec_invalid' });
    await requireNothing(host);
  });

  it('if nothing may be shared, a clone needs its whole size', async () => {
    const none = { ...sizes, canShare: () => false };
    const availableMib = (): number => RESERVE_MIB + 120;
    await using host = await FakeHost.open({ mapsMemory: true, sizes: none, availableMib });
    const clone = host.control.create({ queueTimeoutMs: 1000 });
    await host.passTime(expect(clone).rejects.toMatchObject({ code: 'busy' }));
    await requireNothing(host);
  });
});
