import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import type { DiskTrouble } from '../driver.ts';
import { DISK_TROUBLE_MS, DiskWatch } from './disk-watch.ts';
import type { QmpEvent } from './qmp.ts';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function world(freeBytes: () => Promise<number> = () => Promise.resolve(4096)) {
  const clock = new FakeClock();
  let emit: (event: QmpEvent) => void = () => undefined;
  const onEvent = (listener: (event: QmpEvent) => void) => {
    emit = listener;
    return () => undefined;
  };
  const watch = new DiskWatch({ qmp: { onEvent }, clock, path: '/run/x/disk.ext4', freeBytes });
  const told: DiskTrouble[] = [];
  watch.listen((trouble) => told.push(trouble));
  const says = async (name: string, action?: string): Promise<void> => {
    emit({ name, data: action === undefined ? {} : { action, nospace: true } });
    await turn();
  };
  const pass = async (): Promise<void> => {
    clock.advance(DISK_TROUBLE_MS);
    await turn();
  };
  return { watch, told, says, pass };
}

const FULL = { kind: 'full', path: '/run/x/disk.ext4', freeBytes: 4096 };

describe('DiskWatch', () => {
  it('full: reported once for all waiting requests, with the file and its free space', async () => {
    const { told, says, pass } = world();
    for (let n = 0; n < 5; n += 1) await says('BLOCK_IO_ERROR', 'stop');
    await says('STOP');
    await pass();
    await pass();
    expect(told).toEqual([FULL]);
  });

  it('full again after a resume: reported again, even at once', async () => {
    const { told, says, pass } = world();
    await says('BLOCK_IO_ERROR', 'stop');
    await says('RESUME');
    await says('BLOCK_IO_ERROR', 'stop');
    expect(told).toHaveLength(1);
    await pass();
    expect(told).toEqual([FULL, FULL]);
  });

  it('full: is the reason of the pause while it lasts', async () => {
    const { watch, says } = world();
    expect(watch.full).toBeNull();
    await says('BLOCK_IO_ERROR', 'stop');
    expect(watch.full).toEqual(FULL);
    await says('RESUME');
    expect(watch.full).toBeNull();
  });

  it('a request that succeeds before the report is not reported', async () => {
    const asked = Promise.withResolvers<number>();
    const { told, says } = world(() => asked.promise);
    await says('BLOCK_IO_ERROR', 'stop');
    await says('RESUME');
    asked.resolve(1);
    await turn();
    expect(told).toEqual([]);
  });

  it('failed: reported at most once a second', async () => {
    const { told, says, pass } = world();
    for (let n = 0; n < 1000; n += 1) await says('BLOCK_IO_ERROR', 'report');
    expect(told).toEqual([{ ...FULL, kind: 'failed' }]);
    await pass();
    expect(told).toHaveLength(2);
    await pass();
    expect(told).toHaveLength(2);
  });

  it('reports a full disk even if the file system does not answer, and ignores other events', async () => {
    const { told, says } = world(() => Promise.reject(new Error('ESTALE')));
    await says('STOP');
    await says('BLOCK_IO_ERROR', 'ignore');
    expect(told).toEqual([]);
    await says('BLOCK_IO_ERROR', 'stop');
    expect(told).toEqual([{ ...FULL, freeBytes: null }]);
  });
});
