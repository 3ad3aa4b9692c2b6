/** Real sandboxes that end in each of the ways that there are, and what is then told of them. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import type { Guest } from '../../src/guest/guest.ts';
import { CgroupMemory } from '../../src/observe/cgroup-memory.ts';
import { readSample } from '../../src/observe/memory-counters.ts';
import type { CreateRequest } from '../../src/sandbox/control.ts';
import { makeHostCgroup } from '../support/host-cgroup.ts';
import { type MockUpstream, startMockUpstream } from '../support/mock-upstream.ts';
import { SMALL, useControlPlane, vmmOf } from '../support/vm.ts';

const upstream: MockUpstream = await startMockUpstream();
const fixture = useControlPlane(() => upstream.target.baseUrl ?? '');
afterAll(() => upstream.close());

/** Whatever it is, it does not outlive its sandbox. */
async function asRoot(guest: Guest, code: string): Promise<void> {
  const process = await guest.exec({ argv: ['python3', '-c', code], user: 'root', stdin: false });
  process.stdout.resume();
  process.stderr.resume();
  process.exit.catch(() => undefined);
}

const REBOOT = 'import ctypes; ctypes.CDLL(None).reboot(0x01234567)';
/** Overwrites the code that PID 1 goes on with when a child of it has ended. */
const PANIC = `
import os
maps = [line.split() for line in open('/proc/1/maps') if ' r-xp ' in line and '/' in line]
with open('/proc/1/mem', 'r+b', 0) as memory:
    for line in maps:
        begin, end = (int(part, 16) for part in line[0].split('-'))
        memory.seek(begin)
        memory.write(b'\\x0f\\x0b' * ((end - begin) // 2))
if os.fork() == 0:
    if os.fork() == 0:
        os._exit(0)
    os._exit(0)
os.wait()
`;
const OOM_PANIC = `
open('/proc/sys/vm/panic_on_oom', 'w').write('2')
kept = []
while True: kept.append(bytearray(1 << 20))
`;
const KILL_AGENT = `
import os, signal
for name in os.listdir('/proc'):
    try: words = open(f'/proc/{name}/cmdline').read().split(chr(0))
    except OSError: continue
    if any('/opt/neurovisor/agent/' in word for word in words):
        if open(f'/proc/{name}/stat').read().rsplit(')', 1)[1].split()[1] == '1':
            os.kill(int(name), signal.SIGKILL)
`;

type End = readonly [
  string,
  CreateRequest,
  (id: string, guest: Guest) => Promise<unknown>,
  { readonly cause: string; readonly evidence?: object; readonly detail?: unknown },
];

const ENDS: readonly End[] = [
  ['its owner removes it', {}, (id) => fixture.control.remove(id), { cause: 'stopped' }],
  ['its time is up', { timeoutMs: 3000 }, async () => undefined, { cause: 'timeout' }],
  [
    'its guest reboots',
    {},
    (_id, guest) => asRoot(guest, REBOOT),
    { cause: 'guest-shutdown', evidence: { exitStatus: 0 } },
  ],
  [
    'its guest panics',
    {},
    (_id, guest) => asRoot(guest, PANIC),
    { cause: 'guest-panic', detail: expect.stringContaining('Attempted to kill init') },
  ],
  [
    'its guest has no memory left, and gives up',
    {},
    (_id, guest) => asRoot(guest, OOM_PANIC),
    { cause: 'guest-oom', evidence: { lastPressure: { source: 'guest' } } },
  ],
  [
    'its agent is killed',
    {},
    (_id, guest) => asRoot(guest, KILL_AGENT),
    { cause: 'agent-lost', detail: 'the agent was ended by signal 9' },
  ],
  [
    'somebody kills its VMM',
    {},
    async (id) => process.kill(await vmmOf(fixture, id), 'SIGKILL'),
    { cause: 'vmm-killed', evidence: { signal: 'SIGKILL', exitStatus: null } },
  ],
  [
    'somebody ends its VMM in order',
    {},
    async (id) => process.kill(await vmmOf(fixture, id), 'SIGTERM'),
    { cause: 'vmm-killed', detail: expect.stringContaining('signal 15') },
  ],
  [
    'its VMM has a fault',
    {},
    async (id) => process.kill(await vmmOf(fixture, id), 'SIGSEGV'),
    { cause: 'vmm-crashed', evidence: { signal: 'SIGSEGV' } },
  ],
];

describe('a sandbox ends, and it is told as what it was', () => {
  it.each(ENDS)('%s', async (_name, request, end, expected) => {
    const { control } = fixture;
    const { id } = await control.create({ ...SMALL, ...request });
    await end(id, await control.guest(id));
    await expect
      .poll(async () => (await control.get(id)).status, { timeout: 200_000 })
      .toBe('ended');
    expect((await control.get(id)).end).toMatchObject(expected);
    const { console } = await control.logs(id);
    if (expected.cause === 'guest-panic') expect(console).toContain('Kernel panic');
    await expect(control.guest(id)).rejects.toMatchObject({
      code: 'gone',
      message: expect.stringContaining(expected.cause),
    });
  });
});

const group = makeHostCgroup('nv-test-host-oom');
afterAll(() => group?.remove());

describe.skipIf(group === null)('a VMM that has a control group of this host', () => {
  it('at its limit the kernel of the host kills it: host-oom, with what was seen before', async () => {
    if (group === null) return;
    const { runtime } = fixture;
    const { driver } = runtime;
    const sandbox = runtime.prepareSandbox(
      { memoryMib: 192, diskMib: 64 },
      {
        driver: {
          ...driver,
          start: async (spec, signal) => {
            const vm = await driver.start(spec, signal);
            group.add(vm.pid ?? 0);
            return vm;
          },
        },
        hostMemory: () => new CgroupMemory(group.dir, systemClock),
      },
    );
    const seen: string[] = [];
    sandbox.events.listen(({ type }) => void seen.push(type));
    await sandbox.start();
    // What it has had up to here is charged elsewhere, or is in the limit with it.
    group.limit(usage() + 24 * 2 ** 20);
    await asRoot(sandbox.guest(), 'kept = bytearray(100 << 20)');
    const end = await sandbox.ended;
    expect(end).toMatchObject({
      cause: 'host-oom',
      evidence: { signal: 'SIGKILL', lastOom: { source: 'host' } },
    });
    expect(seen).toContain('oom');
  });
});

function usage(): number {
  const sample = readSample((name) => {
    const path = join(group?.dir ?? '', name);
    return existsSync(path) ? readFileSync(path, 'utf8') : null;
  });
  return sample?.memoryBytes ?? 0;
}
