/** Real sandboxes that end for each cause, and the cause that is reported. */
import { closeSync, existsSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { Injector } from '../../prove/jail/inject.ts';
import { memoryGroup } from '../../src/host/probes/vmm-memory.ts';
import { openRecords } from '../../src/host/probes/vmm-violations.ts';
import type { Guest } from '../../src/machine/guest/guest.ts';
import { readSample } from '../../src/machine/observe/memory-counters.ts';
import type { CreateRequest } from '../../src/sandbox/contract/control.ts';
import { limitGroup } from '../support/host-cgroup.ts';
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

/**
 * With what is no instruction (ud2): a fault of its own. A signal sent would not do, since a VMM is the first
 * process of its pid namespace, which ends by signals of outside only if they can't be caught.
 */
function overwriteCode(pid: number): void {
  const maps = readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n');
  const memory = openSync(`/proc/${pid}/mem`, 'r+');
  try {
    for (const line of maps.filter((each) => / r-xp .*(qemu-system|libc\.so)/.test(each))) {
      const [begin = 0, end = 0] = (line.split(' ')[0] ?? '').split('-').map((x) => parseInt(x, 16));
      writeSync(memory, Buffer.alloc(end - begin, Buffer.from([0x0f, 0x0b])), 0, end - begin, begin);
    }
  } finally {
    closeSync(memory);
  }
}

const REBOOT = 'import ctypes; ctypes.CDLL(None).reboot(0x01234567)';
/** By an error of the disk's file system, after the option that makes it a panic. */
const PANIC = `
import ctypes
MS_REMOUNT = 32
assert ctypes.CDLL(None).mount(None, b'/run/neurovisor/scripts', None, MS_REMOUNT, b'errors=panic') == 0
open('/sys/fs/ext4/vdb/trigger_fs_error', 'w').write('test')
`;
const OOM_PANIC = `
open('/proc/sys/vm/panic_on_oom', 'w').write('2')
kept = []
while True: kept.append(bytearray(1 << 20))
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
    { cause: 'guest-panic', detail: expect.stringContaining('EXT4-fs (device vdb)') },
  ],
  [
    'its guest runs out of memory and panics',
    {},
    (_id, guest) => asRoot(guest, OOM_PANIC),
    { cause: 'guest-oom', evidence: { lastPressure: { source: 'guest' } } },
  ],
  [
    'another process kills its VMM',
    {},
    async (id) => process.kill(await vmmOf(fixture, id), 'SIGKILL'),
    { cause: 'vmm-killed', evidence: { signal: 'SIGKILL', exitStatus: null } },
  ],
  [
    'another process sends its VMM SIGTERM',
    {},
    async (id) => process.kill(await vmmOf(fixture, id), 'SIGTERM'),
    { cause: 'vmm-killed', detail: expect.stringContaining('signal 15') },
  ],
  [
    'its VMM has a fault',
    {},
    async (id) => overwriteCode(await vmmOf(fixture, id)),
    // By where in an instruction it was.
    { cause: 'vmm-crashed', evidence: { signal: expect.stringMatching(/^SIG(ILL|SEGV)$/) } },
  ],
  [
    'its VMM makes a system call that its filter refuses',
    {},
    async (id) => makeRefusedCall(await vmmOf(fixture, id)),
    {
      cause: 'seccomp-violation',
      evidence: {
        signal: 'SIGSYS',
        lastViolation: hearsRecords() ? { count: 1, name: 'unshare', action: 'refused' } : null,
      },
    },
  ],
];

async function makeRefusedCall(pid: number): Promise<void> {
  await using injector = await Injector.make();
  await injector.call(pid, { name: 'unshare', number: 272, args: [0] });
}

/** The kernel names the call only where its audit records can be read. */
function hearsRecords(): boolean {
  const source = openRecords();
  if (typeof source === 'string') return false;
  source.close();
  return true;
}

describe('cause of an ended sandbox', () => {
  it.each(ENDS)('%s', async (_name, request, end, expected) => {
    const { control } = fixture;
    const { id } = await control.create({ ...SMALL, ...request });
    await end(id, await control.guest(id));
    await expect.poll(async () => (await control.get(id)).status, { timeout: 200_000 }).toBe('ended');
    expect((await control.get(id)).end).toMatchObject(expected);
    const { console } = await control.logs(id);
    if (expected.cause === 'guest-panic') expect(console).toContain('Kernel panic');
    await expect(control.guest(id)).rejects.toMatchObject({
      code: 'gone',
      message: expect.stringContaining(expected.cause),
    });
  });
});

describe('a VMM in its own control group', () => {
  it('killed at its memory limit by the host’s kernel: host-oom, with the evidence collected before', async () => {
    const { runtime } = fixture;
    expect(runtime.confinement.description).toContain('memory');
    const { driver } = runtime;
    let pid = 0;
    const sandbox = runtime.prepareVm(
      { memoryMib: 192, diskMib: 64 },
      {
        driver: {
          ...driver,
          start: async (spec, signal) => {
            const vm = await driver.start(spec, signal);
            pid = vm.pid ?? 0;
            return vm;
          },
        },
      },
    );
    const seen: string[] = [];
    sandbox.events.listen(({ type }) => void seen.push(type));
    await sandbox.start();
    const dir = memoryGroupOf(pid);
    limitGroup(dir, usageOf(dir) + 24 * 2 ** 20);
    await asRoot(sandbox.guest(), 'kept = bytearray(100 << 20)');
    const end = await sandbox.ended;
    expect(end).toMatchObject({ cause: 'host-oom', evidence: { signal: 'SIGKILL', lastOom: { source: 'host' } } });
    expect(seen).toContain('oom');
  });
});

function memoryGroupOf(pid: number): string {
  const dir = memoryGroup(`${pid}`);
  if (dir === undefined) throw new Error(`process ${pid} has no group with memory`);
  return dir;
}

function usageOf(dir: string): number {
  const sample = readSample((name) => {
    const path = join(dir, name);
    return existsSync(path) ? readFileSync(path, 'utf8') : null;
  });
  return sample?.memoryBytes ?? 0;
}
