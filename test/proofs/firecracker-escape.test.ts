/** System calls that a compromised Firecracker could make in its jail, injected by ptrace. Needs root and gcc. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Injector, type SystemCall } from '../../prove/jail/inject.ts';
import { silentLog } from '../../src/base/log.ts';
import { makeFirecracker } from '../../src/host/runtime/firecracker/firecracker.ts';
import { VmBench } from '../support/driver-parity.ts';
import { requiresFirecrackerAsRoot } from '../support/firecracker.ts';

const BAD_FD = 0xffff_ffff;
const AF_INET = 2;
const SIGCHLD = 17;
const O_RDONLY = 0;
/** Exit status of Firecracker's SIGSYS handler: the filter refused the call. */
const REFUSED = 'exited 148';
const ENOENT = 'returned -2';
const EBADF = 'returned -9';

const FORBIDDEN: readonly SystemCall[] = [
  { name: 'execve', number: 59, args: ['@/firecracker', 0, 0] },
  { name: 'fork', number: 57 },
  { name: 'clone of a process', number: 56, args: [SIGCHLD, 0, 0, 0, 0] },
  { name: 'ptrace', number: 101, args: [16, 1, 0, 0] },
  { name: 'mount', number: 165, args: ['@none', '@/x', '@tmpfs', 0, 0] },
  { name: 'chroot', number: 161, args: ['@/fc'] },
  { name: 'unshare', number: 272, args: [0] },
  { name: 'setuid', number: 105, args: [0] },
  { name: 'mknod', number: 133, args: ['@/disk', 0o60600, 0x700] },
  { name: 'socket of IPv4', number: 41, args: [AF_INET, 1, 0] },
  { name: 'bpf', number: 321, args: [0, 8, 8] },
];

requiresFirecrackerAsRoot().describe('a Firecracker taken over', (files) => {
  let dir: string;
  let injector: Injector;
  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), 'nv-fc-'));
    injector = await Injector.make();
  });
  afterAll(async () => {
    await injector?.[Symbol.asyncDispose]();
    rmSync(dir, { recursive: true, force: true });
  });

  /** The result of each call, each made by a VMM of its own. */
  async function tryCalls(
    calls: readonly SystemCall[],
    config: { jail: 'enforce' | 'log' | 'off'; firecrackerFilter: 'ours' | 'builtin' },
  ): Promise<Record<string, string>> {
    const { driver, confinement } = await makeFirecracker({
      config: { ...files, jailUids: null, ...config },
      home: { cacheDir: join(dir, 'cache'), runDir: join(dir, 'run') },
      log: silentLog,
    });
    const bench = new VmBench(driver, files);
    const seen: Record<string, string> = {};
    try {
      for (const call of calls) {
        const vm = await bench.boot({ memoryMib: 64 });
        seen[call.name] = await injector.call(vm.pid ?? 0, call);
        await vm.kill();
      }
    } finally {
      await bench.close();
      await confinement.close();
    }
    return seen;
  }

  it.each(['builtin', 'ours'] as const)(
    'makeFirecracker: the filters refuse system calls that lead out of the jail (%s)',
    async (firecrackerFilter) => {
      const seen = await tryCalls(FORBIDDEN, { jail: 'enforce', firecrackerFilter });
      expect(seen).toEqual(Object.fromEntries(FORBIDDEN.map(({ name }) => [name, REFUSED])));
      // A control: the injection works.
      const allowed = { name: 'close', number: 3, args: [BAD_FD] };
      const config = { jail: 'enforce', firecrackerFilter } as const;
      expect(await tryCalls([allowed], config)).toEqual({ close: EBADF });
    },
  );

  it('makeFirecracker: --jail log lets those calls through', async () => {
    const unshare = FORBIDDEN.filter(({ name }) => name === 'unshare');
    const seen = await tryCalls(unshare, { jail: 'log', firecrackerFilter: 'builtin' });
    expect(seen).toEqual({ unshare: 'returned 0' });
  });

  it('makeFirecracker: a jailed VMM sees no files of the host', async () => {
    const open = (path: string): SystemCall => ({ name: path, number: 2, args: [`@${path}`, O_RDONLY, 0] });
    const calls = ['/etc/passwd', '/proc/1/status', '/dev/mem', '/usr', '../../../etc'].map(open);
    const seen = await tryCalls(calls, { jail: 'enforce', firecrackerFilter: 'builtin' });
    expect(seen).toEqual(Object.fromEntries(calls.map(({ name }) => [name, ENOENT])));
    const [passwd] = calls;
    if (passwd === undefined) return;
    const free = await tryCalls([passwd], { jail: 'off', firecrackerFilter: 'builtin' });
    expect(free['/etc/passwd']).toMatch(/^returned \d+$/);
  });
});
