/** Many sandboxes, concurrently and in sequence, from a pool, a template or a boot. No VMs. */
import { describe, expect, it } from 'vitest';
import { BusyError } from '../../src/sandbox/contract/errors.ts';
import { REFILL_DELAY_MS } from '../../src/sandbox/start/pools.ts';
import { WAITING_MAX } from '../../src/sandbox/start/start-queue.ts';
import { FakeHost } from '../support/fake-host.ts';
import { NOTHING, requireNothing } from '../support/fake-leftovers.ts';
import { settle } from '../support/fake-members.ts';

async function fillPool(host: FakeHost, members: number): Promise<void> {
  await host.control.setPool({ min: members, max: members });
  await expect.poll(async () => (await host.control.pools())[0]?.ready).toBe(members);
}

describe('LocalControlPlane: starts', () => {
  it('200 at once with a pool of 4: each gets its own VM, and nothing is left behind', async () => {
    await using host = await FakeHost.open();
    await fillPool(host, 4);
    const asked = Array.from({ length: 200 }, (_, index) =>
      host.control.create({ metadata: { index: String(index) } }),
    );
    const made = await Promise.all(asked);
    expect(new Set(made.map(({ id }) => id)).size).toBe(200);
    expect(made.filter(({ origin }) => origin === 'pool').length).toBeGreaterThanOrEqual(4);
    for (const { id } of made) expect(host.vm(id).isAlive()).toBe(true);
    expect(made.map(({ metadata }) => metadata['index'])).toEqual(
      Array.from({ length: 200 }, (_, index) => String(index)),
    );
    await requireNothing(host);
  });

  it('a request that times out is refused with a retry delay, the rest is served in order', async () => {
    await using host = await FakeHost.open({ concurrency: 1 });
    const first = host.script.hold('start');
    const served: number[] = [];
    const outcomes = Array.from({ length: 20 }, async (_, index) => {
      const queueTimeoutMs = index % 2 === 0 ? 1000 : 60_000;
      await host.control.create({ boot: true, queueTimeoutMs });
      served.push(index);
    });
    const settled = Promise.allSettled(outcomes);
    await first.reached;
    host.clock.advance(1000);
    first.release();
    const refused = (await settled).flatMap((one) => (one.status === 'rejected' ? [one.reason as unknown] : []));
    expect(served).toEqual([0, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19]);
    expect(refused).toHaveLength(9);
    for (const error of refused) {
      expect(error).toBeInstanceOf(BusyError);
      expect(error).toMatchObject({ code: 'busy', retryAfterMs: expect.any(Number) });
    }
    await requireNothing(host);
  });

  it('packages requested with a snapshot, which has its own, are refused', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true });
    await host.control.snapshot(id, { name: 'kept' });
    const asked = host.control.create({ snapshot: 'kept', requirements: ['rich'] });
    await expect(asked).rejects.toMatchObject({ code: 'spec_invalid', message: 'a snapshot has its own packages' });
    expect(await host.control.create({ snapshot: 'kept', requirements: [] })).toBeDefined();
  });

  it('requests beyond the queue’s limit are refused at once', async () => {
    await using host = await FakeHost.open({ concurrency: 1 });
    const first = host.script.hold('start');
    const aborter = new AbortController();
    const asked = Array.from({ length: WAITING_MAX + 3 }, () => host.control.create({ boot: true }, aborter.signal));
    const settled = Promise.allSettled(asked);
    await first.reached;
    await settle();
    aborter.abort();
    first.release();
    const codes = (await settled).map((one) =>
      one.status === 'rejected' ? (one.reason as { code: string }).code : 'served',
    );
    expect(codes.filter((code) => code === 'busy')).toHaveLength(2);
    expect(codes.filter((code) => code === 'cancelled')).toHaveLength(WAITING_MAX + 1);
    expect(await host.holdings()).toEqual(NOTHING);
  });

  it('dead or hanging members are not handed out', async () => {
    await using host = await FakeHost.open();
    await fillPool(host, 3);
    // The environment is sent to the guest, so a guest that hangs shows.
    const request = { env: { OWN: 'mine' } };
    const silent = host.script.hold('update');
    host.script.die('update');
    const creating = host.control.create(request);
    const dumb = await silent.reached;
    host.clock.advance(2000);
    const made = await creating;
    expect(made.origin).toBe('pool');
    expect(host.vm(made.id).isAlive()).toBe(true);
    expect(dumb?.isAlive()).toBe(false);
    expect(host.script.unused).toEqual([]);
    silent.release();
    await requireNothing(host);
  });

  it('a pool is refilled a moment after a claim, so that the first operation is not delayed', async () => {
    await using host = await FakeHost.open();
    await fillPool(host, 2);
    await host.control.create({});
    host.clock.advance(REFILL_DELAY_MS - 1);
    await settle();
    expect(host.vms()).toHaveLength(2);
    host.clock.advance(1);
    await expect.poll(() => host.vms().length).toBe(3);
  });

  it('an idle member that dies is replaced, and an empty pool clones', async () => {
    await using host = await FakeHost.open();
    await fillPool(host, 1);
    const [first] = host.vms();
    first?.die();
    const made = await host.control.create({});
    expect(made.id).not.toBe(first?.id);
    expect(made.origin).toBe('clone');
    expect((await host.control.pools())[0]).toMatchObject({ hits: 0, discarded: 1 });
    await requireNothing(host);
  });

  it.each(['template', 'fill-memory', 'copy-disk', 'start', 'hello'] as const)(
    'a clone that fails at %s boots instead',
    async (phase) => {
      await using host = await FakeHost.open();
      host.script.fail(phase);
      const made = await host.control.create({});
      expect(made).toMatchObject({ status: 'running', origin: 'boot' });
      expect(host.script.unused).toEqual([]);
      await requireNothing(host);
    },
  );

  it.each(['workspace', 'overlay', 'listen', 'bridge', 'start', 'hello'] as const)(
    'a boot that fails at %s reports the reason, and nothing is left behind',
    async (phase) => {
      await using host = await FakeHost.open();
      host.script.fail(phase);
      await expect(host.control.create({ boot: true })).rejects.toMatchObject({
        code: 'start_failed',
        cause: { message: `${phase} failed` },
      });
      expect(await host.control.list()).toEqual([]);
      expect(await host.holdings()).toEqual(NOTHING);
    },
  );

  it.each(['template', 'workspace', 'start', 'hello', 'update'] as const)(
    'a request canceled at %s: nothing is left behind',
    async (phase) => {
      await using host = await FakeHost.open();
      if (phase === 'update') await fillPool(host, 1);
      const held = host.script.hold(phase);
      const aborter = new AbortController();
      const creating = host.control.create({ env: { OWN: 'mine' } }, aborter.signal);
      const refused = expect(creating).rejects.toMatchObject({ code: 'cancelled' });
      await held.reached;
      aborter.abort();
      held.release();
      await refused;
      expect(await host.control.list()).toEqual([]);
      await requireNothing(host);
    },
  );

  describe('from a named template', () => {
    const template = 'data';

    it('has the template’s size, and reports its name, as do its forks', async () => {
      await using host = await FakeHost.open();
      const made = await host.control.create({ template, cpus: 1 });
      expect(made).toMatchObject({ origin: 'clone', template, cpus: 1, memoryMib: 512 });
      const [fork] = await host.control.fork(made.id, { count: 1 });
      expect(fork).toMatchObject({ ok: true, sandbox: { template } });
      expect(await host.control.create({})).toMatchObject({ template: null });
    });

    it.each([
      [{ cpus: 2 }, /cpus: template "data" has 1, not 2/],
      [{ memoryMaxMib: 1024 }, /memoryMaxMib: template "data" has none, not 1024/],
      [{ warm: ['numpy'] }, /warm: template "data" has its own modules/],
      [{ requirements: ['pandas'] }, /template "data" does not have pandas/],
      [{ boot: true }, /mutually exclusive/],
      [{ snapshot: 'base' }, /mutually exclusive/],
      [{ console: 'interactive' as const }, /interactive console/],
    ])('refuses what the template lacks: %j', async (more, message) => {
      await using host = await FakeHost.open();
      await expect(host.control.create({ template, ...more })).rejects.toMatchObject({
        code: 'spec_invalid',
        message: expect.stringMatching(message),
        remedy: expect.stringMatching(/./),
      });
      expect(await host.holdings()).toEqual(NOTHING);
    });

    it.each(['named-template', 'template', 'copy-disk', 'hello'] as const)(
      'fails at %s instead of booting',
      async (phase) => {
        await using host = await FakeHost.open();
        host.script.fail(phase);
        await expect(host.control.create({ template })).rejects.toThrow();
        expect(host.script.unused).toEqual([]);
        expect(await host.control.list()).toEqual([]);
        await requireNothing(host);
      },
    );

    it('is taken from the pool of that name', async () => {
      await using host = await FakeHost.open();
      const limits = { min: 1, max: 1 };
      expect(await host.control.setPool(limits, { template })).toMatchObject({ name: template });
      await expect.poll(async () => (await host.control.pools())[0]?.ready).toBe(1);
      expect(await host.control.create({ template })).toMatchObject({ origin: 'pool', template });
    });
  });

  it('500 sandboxes, created and removed: nothing is left behind', async () => {
    await using host = await FakeHost.open();
    await fillPool(host, 2);
    for (let cycle = 0; cycle < 500; cycle++) {
      const { id } = await host.control.create({ timeoutMs: 60_000, idleTimeoutMs: 60_000 });
      expect(await host.control.remove(id)).toMatchObject({ status: 'ended' });
    }
    await requireNothing(host);
  });
});

describe('LocalControlPlane: close', () => {
  it('waits for starts under way, ends all sandboxes, and refuses new requests', async () => {
    await using host = await FakeHost.open();
    await fillPool(host, 2);
    const { id } = await host.control.create({});
    const held = host.script.hold('hello');
    const creating = expect(host.control.create({ boot: true })).rejects.toMatchObject({ code: 'cancelled' });
    await held.reached;
    const closing = host.control.close();
    expect(host.control.close()).toBe(closing);
    await Promise.all([closing, creating]);
    expect(await host.holdings()).toEqual(NOTHING);
    expect(await host.control.get(id)).toMatchObject({ status: 'ended', end: { cause: 'daemon-stopped' } });
    for (const ask of [
      () => host.control.create({}),
      () => host.control.fork(id, { count: 1 }),
      () => host.control.setPool({ min: 1, max: 1 }),
    ]) {
      await expect(ask()).rejects.toMatchObject({ code: 'cancelled' });
    }
  });

  it('waits for a member that is being bound, and ends it', async () => {
    await using host = await FakeHost.open();
    await fillPool(host, 1);
    const held = host.script.hold('update');
    const creating = expect(host.control.create({ env: { OWN: 'mine' } })).rejects.toMatchObject({ code: 'cancelled' });
    const member = await held.reached;
    const ending = host.script.holdOf('kill', member);
    let isClosed = false;
    const closing = host.control.close().then(() => {
      isClosed = true;
    });
    await ending.reached;
    // Only the bound member is left: its workspace and its RAM file.
    await expect.poll(async () => (await host.holdings())['files of VMs']).toBe(2);
    for (let turn = 0; turn < 10; turn++) await settle();
    expect(isClosed).toBe(false);
    ending.release();
    await Promise.all([closing, creating]);
    held.release();
    expect(await host.holdings()).toEqual(NOTHING);
  });

  it('waits for members of a pool that was just removed', async () => {
    await using host = await FakeHost.open();
    await fillPool(host, 1);
    const held = host.script.hold('kill');
    const giving = host.control.setPool({ min: 0, max: 0 });
    await held.reached;
    let isClosed = false;
    const closing = host.control.close().then(() => {
      isClosed = true;
    });
    await settle();
    expect(isClosed).toBe(false);
    held.release();
    await Promise.all([giving, closing]);
    expect(await host.holdings()).toEqual(NOTHING);
  });
});
