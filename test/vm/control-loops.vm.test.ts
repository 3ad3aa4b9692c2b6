/**
 * Repetition with real guests: dozens of sandboxes leave nothing, and a sandbox that is saved again and again under
 * traffic connects again each time. A full run has hundreds of both.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Guest } from '../../src/machine/guest/link.ts';
import { isFullRun } from '../support/full-run.ts';
import { type Holdings, holdings } from '../support/leftovers.ts';
import { type MockUpstream, startMockUpstream } from '../support/mock-upstream.ts';
import { exec, python, SMALL, useControlPlane } from '../support/vm.ts';

const isFull = isFullRun();
const LOOPS = isFull ? 100 : 12;
const CYCLES = isFull ? 500 : 40;
/** A jailed VMM has 256 descriptors. */
const SNAPSHOTS = isFull ? 300 : 8;
/** Each processor of a small machine starts one. */
const AT_ONCE = 2;
const POLL = { timeout: 60_000, interval: 20 };

const upstream: MockUpstream = await startMockUpstream();
const fixture = useControlPlane(() => upstream.target.baseUrl ?? '');
afterAll(() => upstream.close());

/** Node closes some descriptors a turn later; real leftovers stay. */
async function settled(): Promise<Holdings> {
  await sleep(500);
  return await holdings(fixture.runtime.home.runDir);
}

const stored = (): Promise<string[]> => readdir(join(fixture.dataDir, 'files'));

// First, since no model request has left an open connection yet.
describe(`${CYCLES} sandboxes`, () => {
  let before: Holdings;
  const cycle = async (n: number): Promise<void> => {
    const { control } = fixture;
    const { id, origin } = await control.create({ ...SMALL, env: { N: `${n}` } });
    expect(origin).toBe('clone');
    if (n % 10 === 0) {
      const outcome = await python(await control.guest(id), 'import os; print(os.environ["N"])');
      expect(outcome).toMatchObject({ stdout: `${n}\n`, exitCode: 0 });
    }
    await control.remove(id);
  };
  beforeAll(async () => {
    await cycle(0);
    before = await settled();
  });

  it('created and removed, they leave no process, descriptor, mapping or file', async () => {
    let next = 1;
    const worker = async (): Promise<void> => {
      while (next <= CYCLES) await cycle(next++);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    expect(await settled()).toEqual(before);
    expect(await stored()).toEqual([]);
    expect(await fixture.control.list()).toEqual([]);
  });
});

describe(`${SNAPSHOTS} snapshots of a sandbox`, () => {
  it('leave no descriptor in its VMM', async () => {
    const { control, runtime } = fixture;
    const { id } = await control.create({ ...SMALL });
    const owner = JSON.parse(await readFile(join(runtime.home.runDir, id, 'owner.json'), 'utf8'));
    const descriptors = async (): Promise<number> => (await readdir(`/proc/${owner.vmm.pid}/fd`)).length;
    const save = async (): Promise<void> => control.removeSnapshot((await control.snapshot(id)).id);
    await save();
    const before = await descriptors();
    for (let n = 1; n < SNAPSHOTS; n += 1) await save();
    await expect.poll(descriptors, POLL).toBeLessThanOrEqual(before);
    expect((await exec(await control.guest(id), ['echo', 'alive'])).stdout).toBe('alive\n');
    await control.remove(id);
  });
});

describe(`${LOOPS} saves of a sandbox under traffic`, () => {
  /**
   * Two streams of requests to its model, each over a new connection. `fails` counts those that a save cut
   * off, `lost` those that got no connection at all.
   */
  const TALK = `
import http.client, json, os, threading, time, urllib.request
done, fails, lost = 0, 0, 0
lock = threading.Lock()
def talk():
    global done, fails, lost
    body = json.dumps({'model': 'm1', 'messages': [{'role': 'user', 'content': 'x' * 20000}]}).encode()
    while True:
        request = urllib.request.Request('http://127.0.0.1:11434/v1/chat/completions', body,
                                         {'content-type': 'application/json'})
        try:
            json.load(urllib.request.urlopen(request, timeout=60))
            with lock: done += 1
        # IncompleteRead, of an answer that was cut off, is no OSError.
        except (http.client.HTTPException, OSError, ValueError) as error:
            refused = isinstance(getattr(error, 'reason', error), (ConnectionRefusedError, TimeoutError))
            with lock:
                lost += refused
                fails += 1
def tell():
    while True:
        with open('talk.new', 'w') as file: json.dump([done, fails, lost], file)
        os.rename('talk.new', 'talk')
        time.sleep(0.02)
for target in (talk, talk, tell): threading.Thread(target=target).start()
`;
  const STREAMS = 2;

  async function told(guest: Guest): Promise<[done: number, fails: number, lost: number]> {
    const text = await guest.files.readAll('talk').catch(() => Buffer.from('[0, 0, 0]'));
    return JSON.parse(text.toString());
  }

  it('after each save, guest and host connect again in both directions', async () => {
    const { control } = fixture;
    const { id } = await control.create({ ...SMALL });
    const before = await stored();
    await (await control.guest(id)).python({ script: { code: TALK }, stdin: false, detached: true });
    for (let loop = 0; loop < LOOPS; loop += 1) {
      const guest = await control.guest(id);
      // Host to guest at once, with its first connection.
      expect((await exec(guest, ['echo', `${loop}`])).stdout).toBe(`${loop}\n`);
      const [seen] = await told(guest);
      await expect.poll(async () => (await told(guest))[0], POLL).toBeGreaterThan(seen + STREAMS);
      if (loop % 4 === 3) {
        await control.removeSnapshot((await control.snapshot(id)).id);
      } else {
        await control.pause(id, 'disk');
        await control.resume(id);
      }
    }
    const guest = await control.guest(id);
    const [seen] = await told(guest);
    await expect.poll(async () => (await told(guest))[0], POLL).toBeGreaterThan(seen);
    const [, fails, lost] = await told(guest);
    expect(lost).toBe(0);
    // A save cuts off requests in flight, and nothing else.
    expect(fails).toBeLessThanOrEqual(LOOPS * STREAMS);
    await control.remove(id);
    expect(await stored()).toEqual(before);
  });
});
