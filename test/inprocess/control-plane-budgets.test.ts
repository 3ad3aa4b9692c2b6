/** Model budgets over forks, snapshots and pauses (B23): none of them gives a sandbox a new one. */
import { describe, expect, it } from 'vitest';
import { FakeHost } from '../support/fake-host.ts';

const budget = { outputTokens: 100 };
const USED = { inputTokens: 1, outputTokens: 60, requests: 3, costNanoDollars: 7, window: 0 };

describe('LocalControlPlane: budgets for models', () => {
  it('forks, and forks of forks, use the account of the first sandbox, and show the usage of all', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true, models: { budget } });
    expect(host.models.accounts.get(id)).toBeUndefined();
    host.models.use.set(id, USED);
    const [first] = await host.control.fork(id, { count: 1 });
    if (first?.ok !== true) throw new Error('no fork');
    const [second] = await host.control.fork(first.sandbox.id, { count: 1 });
    if (second?.ok !== true) throw new Error('no fork');
    for (const { sandbox } of [first, second]) {
      expect(host.models.accounts.get(sandbox.id)).toMatchObject({ id });
      expect(sandbox.models.budget).toEqual(budget);
      expect(sandbox.modelUse).toEqual({ account: id, used: USED });
    }
  });

  it('a sandbox that was paused to disk starts with its earlier usage', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true, models: { budget } });
    host.models.use.set(id, USED);
    await host.control.pause(id, 'disk');
    // As after a restart of the daemon.
    host.models.use.clear();
    expect((await host.control.get(id)).modelUse).toEqual({ account: id, used: USED });
    await host.control.resume(id);
    expect(host.models.accounts.get(id)).toEqual({ id, used: USED });
  });

  it('a fork of a paused one starts with the earlier usage, too', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true, models: { budget } });
    host.models.use.set(id, USED);
    await host.control.pause(id, 'disk');
    host.models.use.clear();
    const [fork] = await host.control.fork(id, { count: 1 });
    if (fork?.ok !== true) throw new Error('no fork');
    expect(host.models.accounts.get(fork.sandbox.id)).toEqual({ id, used: USED });
  });

  it('update: changes the budget of a sandbox and of all that share it, running or paused; resumes none of them', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true, models: { budget } });
    const other = await host.control.create({ boot: true, models: { budget } });
    host.models.use.set(id, USED);
    const forks = await host.control.fork(id, { count: 2 });
    const [running, paused] = forks.map((fork) => (fork.ok ? fork.sandbox.id : ''));
    if (running === undefined || paused === undefined) throw new Error('no forks');
    await host.control.pause(paused, 'disk');
    const next = { requests: 9, windowMs: 1000 };
    const info = await host.control.update(running, { models: { budget: next } });
    expect([info.models.budget, info.modelUse]).toEqual([next, { account: id, used: USED }]);
    expect(host.models.budgets.get(running)).toEqual(next);
    expect(host.models.budgets.get(id)).toEqual(next);
    expect(host.models.budgets.get(other.id)).toEqual(budget);
    expect((await host.control.get(id)).models.budget).toEqual(next);
    const still = await host.control.get(paused);
    expect([still.status, still.models.budget]).toEqual(['paused', next]);
    await host.control.resume(paused);
    expect(host.models.budgets.get(paused)).toEqual(next);
    expect((await host.control.get(other.id)).models.budget).toEqual(budget);
  });

  it('update: applies to a paused sandbox; an invalid change has no effect', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true, models: { budget } });
    await host.control.pause(id, 'disk');
    const invalid = host.control.update(id, { timeoutMs: 5000, models: { budget: { requests: 0 } } });
    await expect(invalid).rejects.toMatchObject({ code: 'spec_invalid' });
    const info = await host.control.update(id, { models: { budget: { requests: 1 } } });
    expect([info.status, info.models.budget]).toEqual(['paused', { requests: 1 }]);
    await host.control.update(id, { models: { budget: {} } });
    await host.control.resume(id);
    expect(host.models.budgets.get(id)).toEqual({});
  });

  it('a sandbox from a snapshot has the budget named at its creation, and none otherwise', async () => {
    await using host = await FakeHost.open();
    const { id } = await host.control.create({ boot: true, models: { budget } });
    const snapshot = await host.control.snapshot(id);
    const made = await host.control.create({ snapshot: snapshot.id });
    expect([made.models.budget, made.modelUse.account]).toEqual([{}, made.id]);
    const own = await host.control.create({ snapshot: snapshot.id, models: { budget } });
    expect([own.models.budget, own.modelUse.account]).toEqual([budget, own.id]);
  });
});
