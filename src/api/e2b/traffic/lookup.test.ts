import { expect, it, vi } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import { SandboxError } from '../../../sandbox/contract/errors.ts';
import { TRAFFIC_LIMITS } from './limits.ts';
import { SandboxLookup } from './lookup.ts';

const { size, refillPerSecond } = TRAFFIC_LIMITS.unknownIds;
const info = (id: string, status: SandboxInfo['status'] = 'paused') => ({ id, status }) as SandboxInfo;

/** @param ids of the sandboxes that exist, of which the lookup sees only the first at its start */
async function lookupOf(...ids: readonly string[]) {
  const sandboxes = new Map(ids.map((id) => [id, info(id)]));
  let emit = (_info: SandboxInfo): void => undefined;
  const get = vi.fn(async (id: string): Promise<SandboxInfo> => {
    const found = sandboxes.get(id);
    if (found === undefined) throw new SandboxError('not_found', `there is no sandbox ${id}`);
    return found;
  });
  const list = async (): Promise<SandboxInfo[]> => ids.slice(0, 1).map((id) => info(id));
  const onChange = (listener: typeof emit) => {
    emit = listener;
    return () => undefined;
  };
  const clock = new FakeClock();
  const lookup = await SandboxLookup.open({ control: { get, list, onChange }, clock });
  const change = (changed: SandboxInfo): void => {
    sandboxes.set(changed.id, changed);
    emit(changed);
  };
  return { lookup, clock, get, change };
}

it('SandboxLookup: unknown ids are not looked up beyond their limit, and get the same answer', async () => {
  const { lookup, clock, get } = await lookupOf();
  for (let sent = 0; sent < 3 * size; sent += 1) expect(await lookup.find(`unknown${sent}`)).toBeNull();
  expect(get).toHaveBeenCalledTimes(size);
  clock.advance(1000);
  for (let sent = 0; sent < size; sent += 1) await lookup.find(`more${sent}`);
  expect(get).toHaveBeenCalledTimes(size + refillPerSecond);
});

it('SandboxLookup: sandboxes of this process are found during a flood of unknown ids', async () => {
  const { lookup, change } = await lookupOf('here', 'elsewhere');
  expect(await lookup.find('elsewhere')).toMatchObject({ id: 'elsewhere' });
  change(info('new', 'running'));
  for (let sent = 0; sent < 2 * size; sent += 1) await lookup.find(`unknown${sent}`);
  for (const id of ['here', 'elsewhere', 'new']) expect(await lookup.find(id)).toMatchObject({ id });
});

it('SandboxLookup: an ended sandbox is not found, and counts as unknown', async () => {
  const { lookup, get, change } = await lookupOf('here');
  change(info('here', 'ended'));
  for (let sent = 0; sent < 2 * size; sent += 1) expect(await lookup.find('here')).toBeNull();
  expect(get).toHaveBeenCalledTimes(size);
});
