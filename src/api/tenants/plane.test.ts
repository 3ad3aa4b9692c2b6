import { expect, it } from 'vitest';
import { FakeControlPlane } from '../../../test/support/fake-control-plane.ts';
import type { ControlPlane, SnapshotOptions } from '../../sandbox/contract/control.ts';
import { tenantPlane } from './plane.ts';
import { UNSET_CEILING } from './settings.ts';

const signal = AbortSignal.abort();

async function drain(values: AsyncIterable<unknown>): Promise<void> {
  for await (const _value of values);
}

/** Each method, as a stranger calls it; the compiler requires new ones. */
const CALLS: Record<
  Exclude<
    keyof ControlPlane,
    'host' | 'create' | 'list' | 'snapshots' | 'createVolume' | 'volumes' | 'pools' | 'onChange' | 'secrets'
  >,
  (plane: ControlPlane, id: string, snapshot: string) => Promise<unknown>
> = {
  get: (plane, id) => plane.get(id),
  update: (plane, id) => plane.update(id, { onTimeout: 'pause' }),
  remove: (plane, id) => plane.remove(id),
  pause: (plane, id) => plane.pause(id, 'disk'),
  resume: (plane, id) => plane.resume(id),
  snapshot: (plane, id) => plane.snapshot(id),
  fork: (plane, id) => plane.fork(id, { count: 1 }),
  removeSnapshot: (plane, _id, snapshot) => plane.removeSnapshot(snapshot),
  removeVolume: (plane, id) => plane.removeVolume(id),
  setPool: (plane) => plane.setPool({ min: 0, max: 0 }),
  guest: (plane, id) => plane.guest(id),
  reader: (plane, id) => plane.reader(id),
  openOperation: (plane, id) => plane.openOperation(id),
  openPort: (plane, id) => plane.openPort(id, 80),
  channelStats: (plane, id) => plane.channelStats(id),
  usage: (plane, id) => plane.usage(id),
  logs: (plane, id) => plane.logs(id),
  followLogs: (plane, id) => drain(plane.followLogs(id, signal)),
  events: (plane, id) => drain(plane.events(id, { follow: false })),
};

it.each(Object.entries(CALLS))('%s: answers a stranger like for an unknown id', async (name, call) => {
  const called: string[] = [];
  let isWatched = false;
  await using control = new FakeControlPlane({ before: (method) => isWatched && called.push(method) });
  const [mine, other] = [tenantPlane(control, 'mine'), tenantPlane(control, 'other')];
  const { id } = await other.create({});
  const snapshot = await other.snapshot(id, { name: 'base' });
  const before = await control.get(id);
  isWatched = true;
  const unknown = 'a'.repeat(20);
  const failure = (plane: ControlPlane, ...ids: [string, string]): Promise<string> =>
    call(plane, ...ids).then(
      () => 'done',
      (error: Error) => `${Reflect.get(error, 'code')} ${error.message}`,
    );
  const onUnknown = await failure(mine, unknown, unknown);
  expect(onUnknown).toMatch(name === 'setPool' ? /^forbidden/ : /^not_found/);
  expect((await failure(mine, id, snapshot.id)).replaceAll(/[a-z0-9]{20}/g, unknown)).toBe(onUnknown);
  expect(await control.get(id)).toEqual(before);
  expect(await control.snapshots()).toHaveLength(1);
  // The plane below was only asked for the owner.
  expect(called.filter((one) => !['get', 'snapshots', 'volumes'].includes(one))).toEqual([]);
});

it('create, fork, snapshot: the result belongs to the sandbox’s owner', async () => {
  await using control = new FakeControlPlane();
  const [mine, other] = [tenantPlane(control, 'mine'), tenantPlane(control, 'other')];
  const seen: string[] = [];
  mine.onChange(({ id }) => seen.push(id));
  const made = await mine.create({ annotations: { tenant: 'other', e2b: '{}' } });
  expect(made.annotations).toEqual({ tenant: 'mine', e2b: '{}' });
  const [fork] = await mine.fork(made.id, { count: 1 });
  const snapshot = await mine.snapshot(made.id, { name: 'base' });
  const again = await mine.create({ snapshot: 'base' });
  const strange = await other.create({});
  expect((await mine.list()).map(({ id }) => id)).toEqual([
    again.id,
    fork?.ok === true ? fork.sandbox.id : '',
    made.id,
  ]);
  expect((await other.list()).map(({ id }) => id)).toEqual([strange.id]);
  expect(await other.snapshots()).toEqual([]);
  for (const name of ['base', snapshot.id]) {
    await expect(other.create({ snapshot: name })).rejects.toMatchObject({ code: 'not_found' });
  }
  expect(await mine.host()).toMatchObject({ sandboxes: 3, paused: 0 });
  expect(new Set(seen)).toEqual(new Set((await mine.list()).map(({ id }) => id)));
});

it('host: shows a tenant only its own model budget', async () => {
  await using control = new FakeControlPlane();
  const host = await control.host();
  const limits = { requests: 1, windowMs: 1000 };
  const modelBudgets = [null, 'mine', 'other'].map((tenant) => ({ tenant, limits, used: null }));
  Object.assign(control, { host: async () => ({ ...host, modelBudgets }) });
  expect((await tenantPlane(control, 'mine').host()).modelBudgets).toEqual([modelBudgets[1]]);
  expect((await tenantPlane(control, 'none').host()).modelBudgets).toEqual([]);
});

it('host: shows a tenant no turns and no places of the daemon’s code', async () => {
  await using control = new FakeControlPlane();
  const longTurns = [{ atMs: 0, ms: 60, cpuMs: 60, place: 'parse (src/a.ts:1:1)' }];
  const host = { ...(await control.host()), longTurns };
  Object.assign(control, { host: async () => host });
  expect((await tenantPlane(control, 'mine').host()).longTurns).toEqual([]);
});

it('update: an annotation can’t set an owner', async () => {
  await using control = new FakeControlPlane();
  const mine = tenantPlane(control, 'mine');
  const { id } = await mine.create({});
  await mine.update(id, { annotations: { tenant: 'other', e2b: '{}' } });
  await control.update(id, { annotations: { e2b: '{"a":1}' } });
  expect((await mine.get(id)).annotations).toEqual({ tenant: 'mine', e2b: '{"a":1}' });
});

it('hides the operator’s sandboxes from tenants', async () => {
  await using control = new FakeControlPlane();
  const { id } = await control.create({});
  const mine = tenantPlane(control, 'mine');
  expect(await mine.list()).toEqual([]);
  await expect(mine.get(id)).rejects.toMatchObject({ code: 'not_found' });
});

it('snapshot: only the tenant’s choice of the disk applies, with a name and without', async () => {
  await using control = new FakeControlPlane();
  const asked: (SnapshotOptions | undefined)[] = [];
  const snapshot = control.snapshot.bind(control);
  control.snapshot = (id, options) => {
    asked.push(options);
    return snapshot(id, options);
  };
  const mine = tenantPlane(control, 'mine');
  const { id } = await mine.create({});
  await mine.snapshot(id, { diskOnly: true });
  await mine.snapshot(id, { name: 'base', diskOnly: true });
  expect(asked).toEqual([{ diskOnly: true }, { name: 'mine/base', diskOnly: true }]);
});

it('snapshot: names are separate per tenant, and reveal nothing about others', async () => {
  await using control = new FakeControlPlane();
  const [mine, other] = [tenantPlane(control, 'mine'), tenantPlane(control, 'other')];
  const [first, second] = [await mine.create({}), await other.create({})];
  const own = await mine.snapshot(first.id, { name: 'base' });
  const strange = await other.snapshot(second.id, { name: 'base' });
  expect([own.name, strange.name]).toEqual(['base', 'base']);
  expect((await mine.snapshots()).map(({ id, name }) => [id, name])).toEqual([[own.id, 'base']]);
  expect((await control.snapshots()).map(({ name }) => name)).toEqual(['mine/base', 'other/base']);
  await expect(mine.snapshot(first.id, { name: 'base' })).rejects.toMatchObject({
    code: 'name_taken',
    message: 'there is a snapshot "base" already',
  });
  await mine.removeSnapshot('base');
  expect((await other.snapshots()).map(({ id }) => id)).toEqual([strange.id]);
  await control.removeSnapshot('other/base');
  expect(await control.snapshots()).toEqual([]);
});

it('snapshot: a name from before names were per tenant still works', async () => {
  await using control = new FakeControlPlane();
  const mine = tenantPlane(control, 'mine');
  const { id } = await mine.create({});
  const old = await control.snapshot(id, { name: 'old' });
  expect((await mine.snapshots())[0]).toMatchObject({ id: old.id, name: 'old' });
  await expect(mine.snapshot(id, { name: 'old' })).rejects.toMatchObject({ code: 'name_taken' });
  await mine.removeSnapshot('old');
  expect(await control.snapshots()).toEqual([]);
});

it('hosted models: allows only those of the tenant, and none by default', async () => {
  await using control = new FakeControlPlane();
  const create = async (hosted: readonly string[], wanted: readonly string[]): Promise<string> => {
    const plane = tenantPlane(control, 'acme', { ceilingOf: () => ({ ...UNSET_CEILING, allowHosted: hosted }) });
    return await plane.create({ models: { allowHosted: [...wanted] } }).then(
      ({ models }) => models.allowHosted.join(' '),
      (error: Error) => `${Reflect.get(error, 'code')} ${error.message}`,
    );
  };
  expect(await create([], [])).toBe('');
  expect(await create([], ['gpt'])).toBe('forbidden models.allowHosted: gpt: not for this key');
  expect(await create(['gpt'], ['gpt'])).toBe('gpt');
  expect(await create(['gpt'], ['gpt', 'all'])).toMatch(/^forbidden models.allowHosted: all:/);
  expect(await create(['all'], ['gpt', 'all'])).toBe('gpt all');
  const refused = tenantPlane(control, 'acme').create({ models: { allowHosted: ['gpt'] } });
  await expect(refused).rejects.toMatchObject({ code: 'forbidden' });
});
