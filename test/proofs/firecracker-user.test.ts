/** Firecracker in the jail of an ordinary user. A real guest, but no Linux. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  truncateSync,
  unlinkSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { Injector, type SystemCall } from '../../prove/jail/inject.ts';
import type { Proof } from '../../prove/proof.ts';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import type { FirecrackerConfig, FirecrackerJail } from '../../src/host/runtime/firecracker/jail.ts';
import { openFirecrackerUserJail } from '../../src/host/runtime/firecracker/user-jail.ts';
import type { VmmDriver } from '../../src/machine/vmm/driver.ts';
import { createFirecrackerDriver } from '../../src/machine/vmm/firecracker/driver.ts';
import { startTicksOf } from '../../src/sys/process-start.ts';
import { driverParity, VmBench } from '../support/driver-parity.ts';
import { requiresFirecracker, requiresFirecrackerAsRoot } from '../support/firecracker.ts';

const FIXTURE = join(import.meta.dirname, '../fixtures/firecracker-ordinary.ts');
const PROVE = join(import.meta.dirname, '../fixtures/prove-ordinary.ts');
const UID = 1500;
const THREADS = ['firecracker', 'fc_api', 'fc_vcpu 0'];
const PATIENT = { timeout: 120_000 };
const PLAIN: Omit<FirecrackerConfig, 'firecracker'> = {
  jail: 'auto',
  jailUids: null,
  jailer: null,
  firecrackerFilter: 'builtin',
};
/** Exit status of Firecracker's SIGSYS handler, and the signal of a filter over it: refused. */
const REFUSED = /^(exited 148|killed by 31)$/;
const O_CREAT = 0o100;
const O_RDWR = 2;
const EROFS = 'returned -30';
const ENOENT = 'returned -2';

/** A device of KVM that all users may open, and before it a bubblewrap that is not there, in mounts of the test. */
const MOUNTS = `mount -t tmpfs tmpfs "$1" && mknod "$1/kvm" c 10 232 && chmod 666 "$1/kvm" &&
  mount --bind "$1/kvm" /dev/kvm && shift`;
const NO_BWRAP = 'mount --bind /dev/null "$(command -v bwrap)"';

requiresFirecrackerAsRoot().describe('Firecracker of an ordinary user', (files) => {
  let dir: string;
  let injector: Injector;
  const owners: ChildProcess[] = [];
  let count = 0;
  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), 'nv-fc-'));
    chmodSync(dir, 0o755);
    for (const name of ['firecracker', 'kernelPath', 'rootImagePath'] as const) {
      copyFileSync(files[name], join(dir, name));
      chmodSync(join(dir, name), name === 'firecracker' ? 0o755 : 0o644);
      chownSync(join(dir, name), UID, UID);
    }
    injector = await Injector.make();
  });
  afterEach(async () => {
    for (const owner of owners.splice(0)) {
      owner.stdin?.end();
      if (owner.exitCode === null && owner.signalCode === null) await once(owner, 'exit');
    }
  });
  afterAll(async () => {
    await injector?.[Symbol.asyncDispose]();
    rmSync(dir, { recursive: true, force: true });
  });

  interface Owner {
    readonly process: ChildProcess;
    readonly home: string;
    /** Its first line. */
    readonly jail: Record<string, unknown>;
    boot(name: string): Promise<number>;
  }

  async function start(more: Partial<FirecrackerConfig> = {}, also = ':'): Promise<Owner> {
    count += 1;
    const home = join(dir, `home${count}`);
    const mounts = join(dir, `kvm${count}`);
    for (const made of [home, mounts]) mkdirSync(made, { mode: 0o700 });
    chownSync(home, UID, UID);
    const config = { ...PLAIN, firecracker: join(dir, 'firecracker'), ...more };
    const paths = { kernelPath: join(dir, 'kernelPath'), rootImagePath: join(dir, 'rootImagePath') };
    const script = `${MOUNTS}; ${also}; exec "$@"`;
    const run = ['--mount', 'sh', '-ec', script, 'sh', mounts, process.execPath, FIXTURE];
    const owner = spawn('unshare', [...run, home, `${UID}`, JSON.stringify({ config, ...paths })], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    owners.push(owner);
    const lines = createInterface({ input: owner.stdout })[Symbol.asyncIterator]();
    const next = async (): Promise<Record<string, unknown>> => JSON.parse((await lines.next()).value ?? '{}');
    const jail = await next();
    return {
      process: owner,
      home,
      jail,
      async boot(name) {
        owner.stdin.write(`${name}\n`);
        return Number((await next())['pid']);
      },
    };
  }

  const status = (pid: number, thread: string, name: string): string => {
    const text = readFileSync(`/proc/${pid}/task/${thread}/status`, 'latin1');
    return new RegExp(`^${name}:[ \\t]*(.*)$`, 'm').exec(text)?.[1]?.trim() ?? '';
  };

  it('start: each thread has its filters, no capability and no new privileges', async () => {
    const { jail, boot } = await start();
    expect(jail['description']).toMatch(/^jailed: own namespaces, .*no capabilities.*seccomp/);
    expect(jail['gaps']).toContainEqual(expect.stringMatching(/run as this user/));
    expect(jail['warnings']).toContainEqual(['the jail of VMMs is incomplete', expect.anything()]);
    const pid = await boot('vm');
    expect(readFileSync(`/proc/${pid}/comm`, 'latin1').trim()).toBe('firecracker');
    const threads = readdirSync(`/proc/${pid}/task`);
    // The kernel may add threads of KVM.
    const names = threads.map((thread) => status(pid, thread, 'Name'));
    expect(names).toEqual(expect.arrayContaining(THREADS));
    for (const thread of threads) {
      expect(status(pid, thread, 'Uid')).toMatch(/^1500\s1500\s1500\s1500$/);
      for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) {
        expect(status(pid, thread, set), set).toMatch(/^0+$/);
      }
      expect(status(pid, thread, 'NoNewPrivs')).toBe('1');
      expect(status(pid, thread, 'Seccomp')).toBe('2');
      expect(status(pid, thread, 'Seccomp_filters')).toBe('2');
    }
    for (const name of ['user', 'pid', 'mnt', 'net', 'ipc', 'uts', 'cgroup']) {
      const own = readlinkSync(`/proc/${pid}/ns/${name}`);
      expect(own, name).not.toBe(readlinkSync(`/proc/self/ns/${name}`));
    }
    const limits = readFileSync(`/proc/${pid}/limits`, 'latin1');
    expect(limits).toMatch(/^Max core file size +0 +0 /m);
    expect(limits).toMatch(/^Max locked memory +0 +0 /m);
    expect(limits).toMatch(/^Max open files +4096 +4096 /m);
    expect(readFileSync(`/proc/${pid}/environ`, 'latin1')).not.toMatch(/HOME|PATH/);
  });

  it('start: it sees its files, KVM and its descriptors, and may change names only in its own directories', async () => {
    const { home, boot } = await start();
    const pid = await boot('vm');
    const root = `/proc/${pid}/root`;
    expect(readdirSync(root).sort()).toEqual(['dev', 'firecracker', 'proc', 'vm']);
    expect(readdirSync(join(root, 'dev'))).toEqual(['kvm']);
    expect(readdirSync(join(root, 'proc'))).toEqual(['self']);
    const mounts = readFileSync(`/proc/${pid}/mounts`, 'utf8').trim().split('\n');
    const writable = mounts
      .map((line) => line.split(' '))
      .filter(([, , , options = '']) => !options.split(',').includes('ro'))
      .map(([, point]) => point)
      .sort();
    expect(writable).toEqual(['/dev/kvm', '/vm', '/vm/fc/overlay', '/vm/fc/s']);
    const open = (path: string, flags = 0): SystemCall => ({ name: path, number: 2, args: [`@${path}`, flags, 0o600] });
    const tried: [SystemCall, string | RegExp][] = [
      [open('/etc/passwd'), ENOENT],
      [open('/proc/1/status'), ENOENT],
      [open('/proc/self/status'), ENOENT],
      [open('../../../etc/passwd'), ENOENT],
      [open(home), ENOENT],
      [open('/dev/null'), ENOENT],
      [open('fc/root', O_RDWR), EROFS],
      [open('fc/kernel', O_RDWR), EROFS],
      [open('fc/new', O_RDWR + O_CREAT), EROFS],
      [open('/new', O_RDWR + O_CREAT), EROFS],
      // A control: this it may do.
      [open('fc/overlay', O_RDWR), /^returned \d+$/],
    ];
    for (const [index, [call, expected]] of tried.entries()) {
      const vm = await boot(`vm${index}`);
      expect(await injector.call(vm, call), call.name).toMatch(expected);
    }
  });

  it.each(['builtin', 'ours'] as const)(
    'start: calls that lead out of the jail are refused (%s)',
    async (firecrackerFilter) => {
      const { boot } = await start({ firecrackerFilter });
      const calls: SystemCall[] = [
        { name: 'execve', number: 59, args: ['@/firecracker', 0, 0] },
        { name: 'fork', number: 57 },
        { name: 'ptrace', number: 101, args: [16, 1, 0, 0] },
        { name: 'mount', number: 165, args: ['@none', '@/x', '@tmpfs', 0, 0] },
        { name: 'unshare of a user namespace', number: 272, args: [0x1000_0000] },
        { name: 'setns', number: 308, args: [0xffff_ffff, 0] },
        { name: 'socket of IPv4', number: 41, args: [2, 1, 0] },
        { name: 'io_uring_setup', number: 425, args: [1, 8] },
        { name: 'keyctl', number: 250, args: [0, 0, 0] },
      ];
      for (const [index, call] of calls.entries()) {
        const vm = await boot(`vm${index}`);
        expect(await injector.call(vm, call), call.name).toMatch(REFUSED);
      }
    },
  );

  it('start: enforce refuses the gaps of an ordinary user, and off has no walls', async () => {
    const refused = await start({ jail: 'enforce' });
    expect(refused.jail['why']).toMatch(/run as this user/);
    const { jail, boot } = await start({ jail: 'off' });
    expect(jail['description']).toMatch(/^not jailed/);
    const pid = await boot('vm');
    expect(readdirSync(`/proc/${pid}/root`)).toContain('etc');
  });

  it('start: without bubblewrap, auto refuses and names the package', async () => {
    const { jail } = await start({}, NO_BWRAP);
    expect(jail['why']).toMatch(/could not find bwrap in PATH/);
    expect(jail['remedy']).toMatch(/apt-get install bubblewrap.*--jail off/);
  });

  it('start: a VM ends with its killed owner, and with it its jail', async () => {
    const { process: owner, boot, home } = await start();
    const pid = await boot('vm');
    // `unshare` became the owner.
    owner.kill('SIGKILL');
    await expect.poll(() => startTicksOf(pid), PATIENT).toBeUndefined();
    const named = execFileSync('ps', ['-eo', 'args'], { encoding: 'utf8' });
    expect(named.split('\n').filter((line) => line.includes(home))).toEqual([]);
  });

  it('proveCaps: holds for VMMs that an ordinary user proves', () => {
    const [home, mounts] = [join(dir, 'prove'), join(dir, 'provekvm')];
    for (const made of [home, mounts]) mkdirSync(made, { mode: 0o700 });
    chownSync(home, UID, UID);
    const config = JSON.stringify({ home, vmm: 'firecracker', firecracker: join(dir, 'firecracker') });
    const run = ['--mount', 'sh', '-ec', `${MOUNTS}; exec "$@"`, 'sh', mounts, process.execPath];
    const text = execFileSync('unshare', [...run, PROVE, `${UID}`, config], { encoding: 'utf8' });
    const { holds, tried } = JSON.parse(text) as Proof;
    expect(tried.filter(({ ok }) => !ok)).toEqual([]);
    expect(holds).toBe(true);
    expect(tried.find(({ what }) => what.startsWith('its users and groups'))?.seen).toContain('1500');
  });

  it('kill: nothing of the jail is left in the directory of the VM', async () => {
    const { process: owner, boot, home } = await start();
    const pid = await boot('vm');
    expect(readdirSync(join(home, 'vm'))).toContain('own');
    owner.stdin?.end();
    await once(owner, 'exit');
    expect(existsSync(`/proc/${pid}`)).toBe(false);
    expect(readdirSync(join(home, 'vm'))).toEqual(['overlay']);
  });
});

requiresFirecracker().describe('Firecracker in the jail of an ordinary user', (files) => {
  describe('like every driver', () => {
    let dir: string;
    let jail: FirecrackerJail | undefined;
    let driver: VmmDriver;
    beforeAll(() => {
      dir = mkdtempSync(join(tmpdir(), 'nv-fc-'));
    });
    afterAll(async () => {
      await jail?.close();
      rmSync(dir, { recursive: true, force: true });
    });
    driverParity(
      async () => {
        jail = await openFirecrackerUserJail({
          config: { ...PLAIN, firecracker: files.firecracker },
          home: { cacheDir: join(dir, 'cache'), runDir: join(dir, 'run') },
          log: silentLog,
        });
        driver = await createFirecrackerDriver({
          binary: files.firecracker,
          clock: systemClock,
          log: silentLog,
          jail: jail.specOf,
          tracksDirtyPages: true,
        });
        return driver;
      },
      async () => files,
      ['nic', 'disks', 'paused-connections'],
    );

    it('start: RAM that a clone maps is mounted read-only, though its user owns it', async () => {
      const bench = new VmBench(driver, files);
      const { spec, snapshot } = await bench.saved();
      const memoryPath = join(spec.dir, 'ram');
      copyFileSync(`/proc/self/fd/${spec.memoryFd}`, memoryPath);
      const vm = await bench.clone({ spec, snapshot: { ...snapshot, memoryPath } });
      const seen = join(`/proc/${vm.pid}/root`, 'vm/fc/memory');
      expect(statSync(seen).ino).toBe(statSync(memoryPath).ino);
      for (const attack of [
        () => openSync(seen, 'r+'),
        () => truncateSync(seen, 0),
        () => chmodSync(seen, 0o666),
        () => unlinkSync(seen),
      ]) {
        expect(attack).toThrow(/read-only file system/i);
      }
      await bench.close();
    });
  });
});
