/** Names of sandboxes: who holds one, and until when. No VMs. */
import { expect, it } from 'vitest';
import { tenantPlane } from '../../src/api/tenants/plane.ts';
import { SandboxError } from '../../src/sandbox/contract/errors.ts';
import { FakeHost } from '../support/fake-host.ts';
import { requireNothing } from '../support/fake-leftovers.ts';

const taken = (id: string): unknown =>
  expect.objectContaining({
    code: 'name_taken',
    message: expect.stringContaining(id),
    remedy: expect.stringContaining(id),
  });

it('create: one sandbox at a time has a name, through pauses, until it has ended', async () => {
  await using host = await FakeHost.open({});
  const { control } = host;
  const { id, name } = await control.create({ name: 'web' });
  expect(name).toBe('web');
  await expect(control.create({ name: 'web' })).rejects.toEqual(taken(id));
  await control.pause(id, 'disk');
  expect(await control.list({ name: 'web' })).toMatchObject([{ id, name: 'web', status: 'paused' }]);
  await expect(control.create({ name: 'web' })).rejects.toEqual(taken(id));
  await control.resume(id);
  expect(await control.list({ name: 'web' })).toMatchObject([{ id, status: 'running' }]);
  expect(await control.list({ name: 'other' })).toEqual([]);
  await control.remove(id);
  expect(await control.get(id)).toMatchObject({ name: 'web', status: 'ended' });
  expect(await control.list({ name: 'web' })).toEqual([]);
  const next = await control.create({ name: 'web' });
  expect(next.name).toBe('web');
  await control.remove(next.id);
  await requireNothing(host);
});

it('create: of two at once with one name one is refused, and a failed one leaves the name free', async () => {
  await using host = await FakeHost.open({});
  const { control } = host;
  const both = await Promise.allSettled([control.create({ name: 'web' }), control.create({ name: 'web' })]);
  expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
  await expect(control.create({ name: 'db', snapshot: 'none' })).rejects.toThrow(SandboxError);
  expect((await control.create({ name: 'db' })).name).toBe('db');
});

it('fork: gets a free name of its own, if there is one fork', async () => {
  await using host = await FakeHost.open({});
  const { control } = host;
  const { id } = await control.create({ name: 'web' });
  const [fork] = await control.fork(id, { count: 1, name: 'copy' });
  expect(fork).toMatchObject({ ok: true, sandbox: { name: 'copy', parent: id } });
  expect(await control.list({ name: 'copy' })).toMatchObject([{ parent: id }]);
  await expect(control.fork(id, { count: 1, name: 'web' })).rejects.toEqual(taken(id));
  await expect(control.fork(id, { count: 2, name: 'more' })).rejects.toMatchObject({ code: 'spec_invalid' });
  await expect(control.fork(id, { count: 1, name: '../a' })).rejects.toMatchObject({ code: 'spec_invalid' });
  const both = await Promise.allSettled([1, 2].map(() => control.fork(id, { count: 1, name: 'more' })));
  expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
  expect(await control.list()).toHaveLength(3);
});

it('fork, snapshot: the copy has no name', async () => {
  await using host = await FakeHost.open({});
  const { control } = host;
  const { id } = await control.create({ name: 'web' });
  expect(await control.fork(id, { count: 1 })).toMatchObject([{ ok: true, sandbox: { name: null } }]);
  const snapshot = await control.snapshot(id);
  expect((await control.create({ snapshot: snapshot.id })).name).toBeNull();
});

it.each(['a', '-web', '../web', 'a b', 'a/b/c', 'x'.repeat(64), 'a'.repeat(20), ''])(
  'create: refuses the name %j',
  async (name) => {
    await using host = await FakeHost.open({});
    await expect(host.control.create({ name })).rejects.toMatchObject({ code: 'spec_invalid' });
    expect(await host.control.list()).toEqual([]);
  },
);

it('tenants: each has its own names, and sees no other’s', async () => {
  await using host = await FakeHost.open({});
  const [mine, other] = [tenantPlane(host.control, 'mine'), tenantPlane(host.control, 'other')];
  const own = await mine.create({ name: 'web' });
  expect(own.name).toBe('web');
  const theirs = await other.create({ name: 'web' });
  const operators = await host.control.create({ name: 'web' });
  await expect(mine.create({ name: 'web' })).rejects.toEqual(taken(own.id));
  expect(await mine.list({ name: 'web' })).toMatchObject([{ id: own.id, name: 'web' }]);
  expect(await mine.list({ name: 'other/web' })).toEqual([]);
  const seen: (string | null)[] = [];
  mine.onChange(({ name }) => seen.push(name));
  expect([await mine.pause(own.id, 'disk'), await mine.resume(own.id), await mine.get(own.id)]).toMatchObject(
    Array.from({ length: 3 }, () => ({ name: 'web' })),
  );
  const [fork] = await mine.fork(own.id, { count: 1, name: 'copy' });
  expect(fork).toMatchObject({ ok: true, sandbox: { name: 'copy' } });
  expect(await host.control.list({ name: 'mine/copy' })).toMatchObject([{ parent: own.id }]);
  await expect(other.fork(theirs.id, { count: 1, name: 'copy' })).resolves.toMatchObject([{ ok: true }]);
  expect(await mine.update(own.id, { metadata: { k: 'v' } })).toMatchObject({ name: 'web' });
  expect(await mine.remove(own.id)).toMatchObject({ name: 'web' });
  expect(new Set(seen)).toEqual(new Set(['web', 'copy']));
  expect(await host.control.list({ name: 'other/web' })).toMatchObject([{ id: theirs.id }]);
  expect(await host.control.list({ name: 'web' })).toMatchObject([{ id: operators.id }]);
});
