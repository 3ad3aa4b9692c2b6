/** An abort at any step of a start leaves nothing behind: `create` in each way, and `resume`. No VMs. */
import { describe, expect, it } from 'vitest';
import { FakeHost } from '../support/fake-host.ts';
import { requireNothing } from '../support/fake-leftovers.ts';
import { settle } from '../support/fake-members.ts';

interface Begun {
  /** The earlier sandboxes. */
  readonly ids: readonly string[];
  readonly start: (signal: AbortSignal) => Promise<unknown>;
}

const WAYS: Record<string, (host: FakeHost) => Promise<Begun>> = {
  'create by a boot': async ({ control }) => ({ ids: [], start: (signal) => control.create({ boot: true }, signal) }),
  'create from a template': async ({ control }) => ({ ids: [], start: (signal) => control.create({}, signal) }),
  'create with a network': async ({ control }) => ({
    ids: [],
    start: (signal) => control.create({ network: { mode: 'open' } }, signal),
  }),
  'create from a snapshot': async ({ control }) => {
    const { id } = await control.create({ boot: true });
    await control.snapshot(id, { name: 'kept' });
    return { ids: [id], start: (signal) => control.create({ snapshot: 'kept' }, signal) };
  },
  'resume from the disk': async ({ control }) => {
    const { id } = await control.create({ boot: true });
    await control.pause(id, 'disk');
    return { ids: [id], start: (signal) => control.resume(id, { signal }) };
  },
  'resume with a reboot': async ({ control }) => {
    const { id } = await control.create({ boot: true });
    await control.pause(id, 'disk');
    return { ids: [id], start: (signal) => control.resume(id, { signal, reboot: true }) };
  },
  'resume from memory': async ({ control }) => {
    const { id } = await control.create({ boot: true });
    await control.pause(id, 'memory');
    return { ids: [id], start: (signal) => control.resume(id, { signal }) };
  },
};

/** Turns of the event loop from the step to the abort: before its work, and while the next awaits run. */
const DELAYS = [0, 1, 3];
/** More than any start has. */
const STEPS_MAX = 60;

/** Aborts at the step. Returns false if the start has no such step. */
async function abortAt(way: string, step: number, delay: number): Promise<boolean> {
  await using host = await FakeHost.open();
  const { control, script } = host;
  const { ids, start } = (await WAYS[way]?.(host)) ?? expect.fail(way);
  const statuses = await Promise.all(ids.map(async (id) => (await control.get(id)).status));
  const abort = new AbortController();
  let steps = 0;
  script.onStep = async () => {
    steps += 1;
    if (steps - 1 !== step) return;
    for (let turn = 0; turn < delay; turn++) await settle();
    abort.abort();
  };
  const outcome = await start(abort.signal).then(
    () => 'done',
    (error: unknown) => error,
  );
  script.onStep = undefined;
  const left = await control.list();
  const mine = left.filter(({ id }) => !ids.includes(id));
  if (outcome === 'done') {
    // A create that was done before the abort came has an owner, who knows its id.
    expect(mine).toHaveLength(way.startsWith('create') ? 1 : 0);
  } else {
    expect(outcome).toMatchObject({ code: 'cancelled' });
    expect(mine).toEqual([]);
    expect(left.map(({ status }) => status)).toEqual(statuses);
    // The sandbox can still be started.
    for (const id of ids) expect(await control.resume(id)).toMatchObject({ status: 'running' });
  }
  await requireNothing(host);
  return steps > step;
}

describe('LocalControlPlane: an abort at each step', () => {
  it.each(Object.keys(WAYS))('%s: leaves nothing behind', async (way) => {
    let steps = 0;
    for (const delay of DELAYS) {
      for (let step = 0; step < STEPS_MAX && (await abortAt(way, step, delay)); step++) steps += 1;
    }
    expect(steps).toBeGreaterThan(0);
    expect(steps).toBeLessThan(STEPS_MAX * DELAYS.length);
  });
});
