/**
 * Endings and memory events: each cause is reported with its evidence, and survives the process that held the sandbox.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { GuestEvent } from '../../src/machine/guest/guest.ts';
import type { CreateRequest } from '../../src/sandbox/contract/control.ts';
import type { EndCause } from '../../src/sandbox/contract/ending.ts';
import type { TimedEvent } from '../../src/sandbox/contract/events.ts';
import { FakeHost } from '../support/fake-host.ts';
import { requireNothing } from '../support/fake-leftovers.ts';
import { settle } from '../support/fake-members.ts';

const NEAR: GuestEvent = { type: 'near_oom', memoryBytes: 95, limitBytes: 100 };
const VICTIM = { pid: 7, name: 'python3', rssBytes: 4096 };
const OOM: GuestEvent = { type: 'oom', oomKills: 1, detail: 'killed', victim: VICTIM };

async function begin(host: FakeHost, request: CreateRequest = {}): Promise<string> {
  return (await host.control.create({ boot: true, ...request })).id;
}

const RESET = { exitCode: 0, detail: 'guest-reset', log: 'of the VMM' };
const panic = (why: string): string => `boot\nKernel panic - not syncing: ${why}\nmore\n`;

/** Ways to end a sandbox, with the cause and evidence that follow. */
const ENDINGS: Record<string, [(host: FakeHost, id: string) => Promise<void>, EndCause, object]> = {
  'its owner removes it': [async (host, id) => void (await host.control.remove(id)), 'stopped', { signal: null }],
  'its time is up': [
    async (host, id) => {
      await host.control.update(id, { timeoutMs: 1000 });
      host.clock.advance(1000);
    },
    'timeout',
    {},
  ],
  'its guest powers off': [
    async (host, id) => host.vm(id).die('guest-shutdown', { ...RESET, detail: 'guest-shutdown' }),
    'guest-shutdown',
    { exitStatus: 0 },
  ],
  'its guest panics': [
    async (host, id) => {
      host.vm(id).console = panic('sysrq triggered crash');
      host.vm(id).die('guest-shutdown', RESET);
    },
    'guest-panic',
    { exitStatus: 0 },
  ],
  'its guest has no memory left at all': [
    async (host, id) => {
      host.vm(id).console = panic('System is deadlocked on memory');
      host.vm(id).die('guest-shutdown', RESET);
    },
    'guest-oom',
    { exitStatus: 0 },
  ],
  'the kernel of this host kills its VMM': [
    async (host, id) => {
      host.memory.kills = 1;
      const victim = { ...VICTIM, name: 'qemu', rssBytes: 3 * 2 ** 30 };
      host.memory.emit({ type: 'oom', victim, detail: '' });
      host.vm(id).die('vmm-crashed', { signal: 'SIGKILL' });
    },
    'host-oom',
    { signal: 'SIGKILL', lastOom: { source: 'host', victim: { name: 'qemu' } } },
  ],
  'another process kills its VMM': [
    async (host, id) => host.vm(id).die('vmm-crashed', { signal: 'SIGKILL' }),
    'vmm-killed',
    { signal: 'SIGKILL' },
  ],
  'its VMM has a fault': [
    async (host, id) => host.vm(id).die('vmm-crashed', { signal: 'SIGSEGV' }),
    'vmm-crashed',
    { signal: 'SIGSEGV' },
  ],
  'its agent is lost': [
    async (host, id) => {
      host.vm(id).loseAgent();
      await settle();
      host.clock.advance(1000);
    },
    'agent-lost',
    {},
  ],
};

describe('an ending', () => {
  it.each(Object.keys(ENDINGS))('%s', async (name) => {
    const [end, cause, evidence] = ENDINGS[name] as (typeof ENDINGS)[string];
    const dir = await mkdtemp(join(tmpdir(), 'nv-endings-'));
    // Its key is beside it.
    const dataDir = join(dir, 'data');
    try {
      const told = { cause, detail: expect.any(String), atMs: expect.any(Number), evidence };
      let id = '';
      {
        await using host = await FakeHost.open({ dataDir });
        id = await begin(host);
        (await host.guest(id)).emit(NEAR);
        const ended = host.became(id, 'ended');
        const before = host.vm(id).console;
        await end(host, id);
        await ended;
        expect(await host.control.get(id)).toMatchObject({ status: 'ended', end: told });
        const seen: TimedEvent[] = [];
        for await (const event of host.control.events(id)) seen.push(event);
        expect(seen).toMatchObject([{ type: 'end', end: { cause } }]);
        const { detail } = (await host.control.get(id)).end ?? {};
        if (cause === 'host-oom') expect(detail).toContain('qemu (pid 7) held 3072 MiB');
        const { console } = await host.control.logs(id);
        if (cause.startsWith('guest-')) expect(console).toContain(before);
        await expect(host.control.guest(id)).rejects.toMatchObject({
          code: 'gone',
          message: expect.stringContaining(cause),
        });
        expect(host.memory.listeners).toBe(0);
        await requireNothing(host);
      }
      // The next process on this store reports the same.
      await using next = await FakeHost.open({ dataDir, owner: 'two' });
      const info = await next.control.get(id);
      expect(info).toMatchObject({ status: 'ended', end: told });
      expect(info.end?.evidence.lastPressure).toMatchObject({ type: 'near_oom', memoryBytes: 95 });
      const { console, vmm } = await next.control.logs(id);
      if (cause === 'guest-panic') {
        expect(console).toBe(panic('sysrq triggered crash'));
        expect(vmm).toBe('of the VMM');
        expect(info.end?.detail).toBe('sysrq triggered crash');
      }
    } finally {
      await rm(dir, { recursive: true });
    }
  });

  it('the process that held the sandbox was killed: host-lost', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'nv-endings-'));
    // Its key is beside it.
    const dataDir = join(dir, 'data');
    try {
      const host = await FakeHost.open({ dataDir });
      const id = await begin(host);
      await host.kill();
      await using next = await FakeHost.open({ dataDir, owner: 'two' });
      expect(await next.control.get(id)).toMatchObject({
        end: { cause: 'host-lost', evidence: { exitStatus: null, lastPressure: null } },
      });
    } finally {
      await rm(dir, { recursive: true });
    }
  });

  it('a removal deletes the console', async () => {
    await using host = await FakeHost.open();
    const id = await begin(host);
    host.vm(id).console = 'private';
    expect((await host.control.logs(id)).console).toBe('private');
    host.vm(id).logs.vmm.push(Buffer.from('of the VMM, which runs\n'));
    expect((await host.control.logs(id)).vmm).toBe('of the VMM, which runs');
    await host.control.remove(id);
    expect(await host.control.logs(id)).toEqual({ console: '', vmm: '' });
  });

  it('logs can be read as soon as the end is visible', async () => {
    await using host = await FakeHost.open();
    const id = await begin(host);
    host.vm(id).console = 'last words';
    const held = host.script.hold('put');
    const ended = host.became(id, 'ended');
    host.vm(id).die('vmm-crashed', { signal: 'SIGABRT' });
    await ended;
    const logs = host.control.logs(id);
    await held.reached;
    held.release();
    expect((await logs).console).toBe('last words');
  });
});

describe('events', () => {
  it('of guest and host, over all VMs, until the end', async () => {
    await using host = await FakeHost.open();
    const id = await begin(host);
    const seen: TimedEvent[] = [];
    const reading = (async () => {
      for await (const event of host.control.events(id)) seen.push(event);
    })();
    (await host.guest(id)).emit(NEAR);
    await settle();
    await host.control.pause(id, 'disk');
    await host.control.resume(id);
    (await host.guest(id)).emit(OOM);
    host.memory.emit({ type: 'near_oom', memoryBytes: 1, limitBytes: 2 });
    await settle();
    await host.control.remove(id);
    await reading;
    expect(seen.map(({ type }) => type)).toEqual(['near_oom', 'action', 'oom', 'near_oom', 'end']);
    expect(seen.map(({ seq }) => seq)).toEqual([1, 2, 3, 4, 5]);
    expect(seen[3]).toMatchObject({ source: 'host' });
  });

  it('a flood of one guest does not affect its neighbor', async () => {
    await using host = await FakeHost.open();
    const [one, two] = [await begin(host), await begin(host)];
    for (let n = 0; n < 10_000; n += 1) (await host.guest(one)).emit(OOM);
    (await host.guest(two)).emit(OOM);
    const count = async (id: string): Promise<number> => {
      let events = 0;
      for await (const _event of host.control.events(id, { follow: false })) events += 1;
      return events;
    };
    expect(await count(one)).toBeLessThan(30);
    expect(await count(two)).toBe(1);
  });

  it('of an unknown sandbox: refused', async () => {
    await using host = await FakeHost.open();
    const events = host.control.events('abcdefghij0123456789')[Symbol.asyncIterator]();
    await expect(events.next()).rejects.toMatchObject({ code: 'not_found' });
    await expect(host.control.logs('abcdefghij0123456789')).rejects.toMatchObject({ code: 'not_found' });
  });
});

describe('onMemoryPressure', () => {
  it('pause: in memory, before anything is killed', async () => {
    await using host = await FakeHost.open();
    const id = await begin(host, { onMemoryPressure: 'pause' });
    const paused = host.became(id, 'paused');
    (await host.guest(id)).emit(NEAR);
    await paused;
    expect(await host.control.get(id)).toMatchObject({ pausedTo: 'memory' });
    expect(host.vm(id).runs).toBe(false);
  });

  it('snapshot: is taken, and the sandbox continues', async () => {
    await using host = await FakeHost.open();
    const id = await begin(host, { onMemoryPressure: 'snapshot' });
    const saving = host.became(id, 'saving');
    (await host.guest(id)).emit(NEAR);
    await saving;
    await host.became(id, 'running');
    await settle();
    await expect
      .poll(async () => (await host.control.snapshots()).map(({ name }) => name))
      .toEqual([`near-oom-${id}-1`]);
  });

  it('URL: gets the event', async () => {
    await using host = await FakeHost.open();
    const id = await begin(host, { onMemoryPressure: 'http://127.0.0.1:9/hook' });
    (await host.guest(id)).emit(NEAR);
    await settle();
    expect(host.posted).toMatchObject([
      { url: 'http://127.0.0.1:9/hook', event: { sandbox: id, type: 'near_oom', seq: 1 } },
    ]);
  });

  it('can be changed, and survives a pause to disk', async () => {
    await using host = await FakeHost.open();
    const id = await begin(host);
    expect(await host.control.get(id)).toMatchObject({ onMemoryPressure: 'warn' });
    await host.control.update(id, { onMemoryPressure: 'snapshot' });
    await host.control.pause(id, 'disk');
    expect(await host.control.get(id)).toMatchObject({ onMemoryPressure: 'snapshot' });
    await host.control.resume(id);
    expect(await host.control.get(id)).toMatchObject({ onMemoryPressure: 'snapshot' });
    await expect(host.control.update(id, { onMemoryPressure: 'grow' as 'warn' })).rejects.toMatchObject({
      code: 'spec_invalid',
    });
  });
});
