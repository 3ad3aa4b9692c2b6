/** Guests that never become ready: a typed error with the reason, and nothing is left. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { listenForGuest } from '../../src/machine/guest/link.ts';
import { holdings } from '../support/leftovers.ts';
import { useRuntime } from '../support/vm.ts';

const fixture = useRuntime();
let dir = '';
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-start-'));
});
afterAll(() => rm(dir, { recursive: true }));

describe('start failure', () => {
  it('a root image without a file system: the error quotes the console', async () => {
    const { runtime } = fixture;
    const before = await holdings(runtime.home.runDir);
    const rootImagePath = join(dir, 'garbage');
    await writeFile(rootImagePath, Buffer.alloc(1 << 20, 0x5a));
    const sandbox = runtime.prepareVm({ memoryMib: 128 }, { rootImagePath });
    await expect(sandbox.start()).rejects.toMatchObject({
      code: 'start_failed',
      cause: { message: expect.stringContaining('Unable to mount root fs') },
    });
    const left = await holdings(runtime.home.runDir);
    expect(left.runDir).toEqual(before.runDir);
    expect(left.processes.filter((one) => one.includes('qemu'))).toEqual([]);
  });

  it('a guest without a hello: the start fails with hello_timeout', async () => {
    const { runtime } = fixture;
    const before = await holdings(runtime.home.runDir);
    const sandbox = runtime.prepareVm(
      { memoryMib: 128 },
      {
        // The guest dials another channel than this listener's.
        listenForGuest: (_channelPath, identity) =>
          listenForGuest({
            channelPath: join(dir, 'elsewhere'),
            identity,
            helloTimeoutMs: 5_000,
            clock: systemClock,
            entropy: () => new Uint8Array(64),
            log: silentLog,
          }),
      },
    );
    await expect(sandbox.start()).rejects.toMatchObject({
      code: 'start_failed',
      cause: { message: expect.stringContaining('hello') },
    });
    expect((await holdings(runtime.home.runDir)).runDir).toEqual(before.runDir);
  });
});
