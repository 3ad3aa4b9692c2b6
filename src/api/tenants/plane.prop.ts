import fc from 'fast-check';
import { expect, it } from 'vitest';
import { FakeControlPlane } from '../../../test/support/fake-control-plane.ts';
import type { ControlPlane, SandboxInfo, SnapshotInfo } from '../../sandbox/contract/control.ts';
import { ownerOf } from './owner.ts';
import { tenantPlane } from './plane.ts';

const TENANTS = ['a', 'b'] as const;
const OPERATIONS = [
  'create',
  'get',
  'update',
  'remove',
  'pause',
  'resume',
  'snapshot',
  'fork',
  'restore',
  'removeSnapshot',
  'logs',
] as const;

const step = fc.record({
  tenant: fc.constantFrom(...TENANTS),
  operation: fc.constantFrom(...OPERATIONS),
  at: fc.nat({ max: 20 }),
});
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** @returns whether it succeeded */
async function run(plane: ControlPlane, { operation }: Step, id: string, snapshot: string) {
  const calls: Record<(typeof OPERATIONS)[number], () => Promise<unknown>> = {
    create: () => plane.create({ annotations: { tenant: 'b' } }),
    get: () => plane.get(id),
    update: () => plane.update(id, { metadata: { k: 'v' }, annotations: { tenant: 'a' } }),
    remove: () => plane.remove(id),
    pause: () => plane.pause(id, 'disk'),
    resume: () => plane.resume(id),
    snapshot: () => plane.snapshot(id),
    fork: () => plane.fork(id, { count: 2 }),
    restore: () => plane.create({ snapshot }),
    removeSnapshot: () => plane.removeSnapshot(snapshot),
    logs: () => plane.logs(id),
  };
  return await calls[operation]().then(
    () => true,
    () => false,
  );
}

it('no tenant ever sees or changes what belongs to another', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      await using control = new FakeControlPlane();
      const seen = { a: [] as SandboxInfo[], b: [] as SandboxInfo[] };
      const planes = { a: tenantPlane(control, 'a'), b: tenantPlane(control, 'b') };
      for (const tenant of TENANTS) planes[tenant].onChange((info) => seen[tenant].push(info));
      await control.create({});
      for (const one of steps) {
        const { tenant, at } = one;
        const other = tenant === 'a' ? 'b' : 'a';
        const world = async () => ({
          sandboxes: await control.list({ status: ['running', 'paused', 'ended'] }),
          snapshots: await control.snapshots(),
        });
        const ofOthers = <T extends SandboxInfo | SnapshotInfo>(list: readonly T[]): readonly T[] =>
          list.filter((info) => ownerOf(info) !== tenant);
        const before = await world();
        const target = before.sandboxes[at % before.sandboxes.length];
        const snapshot = before.snapshots[at % Math.max(1, before.snapshots.length)];
        const done = await run(planes[tenant], one, target?.id ?? '', snapshot?.id ?? 'none');
        const after = await world();
        expect(ofOthers(after.sandboxes)).toEqual(ofOthers(before.sandboxes));
        expect(ofOthers(after.snapshots)).toEqual(ofOthers(before.snapshots));
        const touched =
          one.operation === 'create' ? null : ['restore', 'removeSnapshot'].includes(one.operation) ? snapshot : target;
        if (done && touched != null) expect(ownerOf(touched)).toBe(tenant);
        for (const each of TENANTS) {
          const shown = [
            ...(await planes[each].list({ status: ['running', 'paused', 'ended'] })),
            ...(await planes[each].snapshots()),
            ...seen[each],
          ];
          expect(shown.every((info) => ownerOf(info) === each)).toBe(true);
        }
        expect(await planes[other].host()).toMatchObject({ sandboxes: (await planes[other].list()).length });
      }
    }),
  );
});
