/** Firecracker in its jail: the real jailer, with a guest. Needs root. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { writeLauncher } from '../../src/host/runtime/firecracker/filters.ts';
import type { VmSpec } from '../../src/machine/vmm/driver.ts';
import {
  createFirecrackerDriver,
  type FirecrackerDriver,
  type FirecrackerDriverOptions,
} from '../../src/machine/vmm/firecracker/driver.ts';
import { reclaimJails } from '../../src/machine/vmm/firecracker/jail/reclaim.ts';
import { startTicksOf } from '../../src/sys/process-start.ts';
import { readAll } from '../support/channel.ts';
import { ask, HELLO_PORT, VmBench } from '../support/driver-parity.ts';
import { requiresFirecrackerAsRoot } from '../support/firecracker.ts';
import { requiresCgroupV1 } from '../support/host-cgroup.ts';

const PATIENT = { timeout: 120_000 };
const HOLD = join(import.meta.dirname, '../fixtures/hold-jailed-vm.ts');
/**
 * The threads' count, lengths and names, then the counts of their instructions: groups of bytes that each begin with 0.
 */
const EMPTY_FILTERS = Buffer.from(
  ['03', '00030403', Buffer.from('apivcpuvmm').toString('hex'), '00000000'].join(''),
  'hex',
);
const UID = 61_234;
const GID = 61_235;

requiresFirecrackerAsRoot().describe('Firecracker in a jail', (files) => {
  const { firecracker, jailer } = files;
  let baseDir: string;
  let bench: VmBench;
  beforeEach(() => {
    baseDir = mkdtempSync(join(tmpdir(), 'nv-jail-'));
  });
  afterEach(async () => {
    await bench?.close();
    rmSync(baseDir, { recursive: true, force: true });
  });

  function makeJailDriver(user: { uid: number; gid: number }): Promise<FirecrackerDriver> {
    return createFirecrackerDriver({
      binary: firecracker,
      clock: systemClock,
      log: silentLog,
      jail: () => ({ jailer, baseDir, ...user }),
    });
  }

  async function makeBench(more: Partial<FirecrackerDriverOptions> = {}): Promise<VmBench> {
    const driver = await createFirecrackerDriver({
      binary: firecracker,
      clock: systemClock,
      log: silentLog,
      jail: () => ({ jailer, baseDir, uid: UID, gid: GID }),
      ...more,
    });
    await bench?.close();
    bench = new VmBench(driver, files);
    return bench;
  }

  it('start: runs in a root of its own, as another user, with minimal rights', async () => {
    const vm = await (await makeBench()).boot();
    const proc = `/proc/${vm.pid}`;
    const root = statSync(join(baseDir, 'firecracker', vm.id, 'root'));
    expect(statSync(`${proc}/root`)).toMatchObject({ ino: root.ino, dev: root.dev });
    expect(readFileSync(`${proc}/mounts`, 'utf8').trim().split('\n')).toHaveLength(1);
    const status = readFileSync(`${proc}/status`, 'utf8');
    expect(status).toMatch(new RegExp(`^Uid:\\s+${UID}\\s+${UID}\\s+${UID}\\s+${UID}$`, 'm'));
    expect(status).toMatch(new RegExp(`^Gid:\\s+${GID}\\s`, 'm'));
    expect(status).toMatch(/^CapEff:\s+0+$/m);
    expect(status).toMatch(/^NoNewPrivs:\s+1$/m);
    expect(status).toMatch(/^Seccomp:\s+2$/m);
    expect(readFileSync(`${proc}/environ`, 'utf8')).not.toContain('NEUROVISOR');
    expect(lstatSync(vm.channelPath).isSocket()).toBe(true);
    expect(lstatSync(vm.channelPath).mode & 0o777).toBe(0o600);
    expect(await ask(vm, 'WRITE here')).toBe('done');
    expect(await ask(vm, 'INFO write-root')).toBe('refused');
    expect(await vm.channelStats()).toMatchObject({ connectionsOpened: expect.any(Number) });
  });

  it('kill: removes the jail, and returns the disk to its owner', async () => {
    await makeBench();
    const spec = bench.spec();
    const vm = await bench.boot(spec);
    expect(lstatSync(spec.overlayPath).uid).toBe(UID);
    await ask(vm, 'WRITE kept');
    await vm.kill();
    expect(readdirSync(join(baseDir, 'firecracker'))).toEqual([]);
    expect(readdirSync(spec.dir).sort()).toEqual(['overlay', `v_${HELLO_PORT}`]);
    expect(lstatSync(spec.overlayPath).uid).toBe(0);
    expect(readFileSync(spec.overlayPath, 'latin1').slice(0, 5)).toBe('kept\0');
  });

  it('saveWhole: saves from one jail and starts clones in two others', async () => {
    await makeBench();
    const spec = bench.spec({ memoryMib: 64 });
    const vm = await bench.boot(spec);
    const paths = { statePath: join(spec.dir, 'state'), memoryPath: join(spec.dir, 'memory') };
    const snapshot = await vm.saveWhole?.(paths);
    if (snapshot === undefined) throw new Error('no snapshot');
    for (const path of Object.values(paths)) {
      expect(lstatSync(path).uid).toBe(0);
      expect(lstatSync(path).mode & 0o777).toBe(0o600);
    }
    const clone = async (): Promise<string> => {
      const own = bench.spec({ memoryMib: 64, snapshot });
      const hello = await bench.listen(own.channelPath, HELLO_PORT);
      const cloned = await bench.start(own);
      expect((await readAll(await hello.accept())).toString()).toBe('ready\n');
      return ask(cloned, 'INFO generation');
    };
    const [one, two] = await Promise.all([clone(), clone()]);
    expect(one).not.toBe(two);
  });

  requiresCgroupV1('cpu').it('start: creates control groups for the VM, which are removed with it', async () => {
    const parent = `neurovisor-test-${process.pid}`;
    const there = join('/sys/fs/cgroup/cpu', parent);
    const cgroup = { version: 1 as const, parent, settings: ['cpu.shares=128'] };
    await makeBench({ jail: () => ({ jailer, baseDir, uid: UID, gid: GID, cgroup }) });
    try {
      const vm = await bench.boot();
      expect(readFileSync(join(there, vm.id, 'cgroup.procs'), 'utf8').trim()).toBe(`${vm.pid}`);
      expect(readFileSync(join(there, vm.id, 'cpu.shares'), 'utf8').trim()).toBe('128');
      await vm.kill();
      expect(existsSync(join(there, vm.id))).toBe(false);
    } finally {
      await bench.close();
      if (existsSync(there)) rmdirSync(there);
    }
  });

  it('saveState: saves to an unnamed memory file and starts from it', async () => {
    await makeBench();
    const of = await bench.saved();
    const vm = await bench.clone(of);
    await expect.poll(() => ask(vm, 'INFO loads').catch(String), PATIENT).toBe('1');
    expect(lstatSync(of.snapshot.statePath).uid).toBe(0);
  });

  it('start: refuses a base that is a link or writable by others, and creates nothing', async () => {
    await makeBench();
    const refuse = async (dir: string, cause: string): Promise<void> => {
      await makeBench({ jail: () => ({ jailer, baseDir: dir, uid: UID, gid: GID }) });
      const failure = bench.driver.start(bench.spec());
      await expect(failure).rejects.toMatchObject({
        code: 'vmm_start_failed',
        cause: expect.stringContaining(cause),
        remedy: expect.stringContaining('0700'),
      });
      await bench.close();
    };
    const open = join(baseDir, 'open');
    mkdirSync(open);
    chmodSync(open, 0o755);
    await refuse(open, 'other users can enter it');
    chmodSync(open, 0o777);
    mkdirSync(join(open, 'below'), { mode: 0o700 });
    await refuse(join(open, 'below'), 'other users can write to it');
    symlinkSync(baseDir, join(baseDir, 'link'));
    await refuse(join(baseDir, 'link'), 'it is a symbolic link');
    await refuse(join(baseDir, 'none'), 'ENOENT');
    const theirs = join(baseDir, 'theirs');
    mkdirSync(theirs, { mode: 0o700 });
    execFileSync('chown', [`${UID}`, theirs]);
    await refuse(theirs, `its owner is user ${UID}`);
    // A link planted where the driver makes jails (S2).
    const planted = join(baseDir, 'planted');
    mkdirSync(planted, { mode: 0o700 });
    mkdirSync(join(baseDir, 'target'), { mode: 0o700 });
    symlinkSync(join(baseDir, 'target'), join(planted, 'firecracker'));
    await refuse(planted, 'it is a symbolic link');
    expect(readdirSync(join(baseDir, 'target'))).toEqual([]);
  });

  it('start: does not touch a jail of the same name', async () => {
    await makeBench();
    const spec = bench.spec();
    const there = join(baseDir, 'firecracker', spec.id);
    mkdirSync(join(baseDir, 'firecracker'), { mode: 0o700 });
    mkdirSync(there, { mode: 0o700 });
    writeFileSync(join(there, 'somebodys'), '');
    await expect(bench.driver.start(spec)).rejects.toMatchObject({ code: 'vmm_start_failed' });
    expect(readdirSync(there)).toEqual(['somebodys']);
  });

  it.each([
    { uid: 0 },
    { gid: 0 },
    { uid: -1 },
    { uid: 1.5 },
    { cgroup: { version: 1 as const, settings: ['cpu.shares=1 --netns /x\n'] } },
    { cgroup: { version: 1 as const, settings: ['../x=1'] } },
    { cgroup: { version: 1 as const, parent: '../x', settings: [] } },
    { netnsPath: '/run/../etc/passwd' },
    { netnsPath: 'relative' },
  ])('start: refuses an invalid jail (%j)', async (wrong) => {
    await makeBench({ jail: () => ({ jailer, baseDir, uid: UID, gid: GID, ...wrong }) });
    const failure = bench.driver.start(bench.spec());
    await expect(failure).rejects.toMatchObject({ code: 'vm_spec_invalid' });
    expect(readdirSync(baseDir)).toEqual([]);
  });

  it('start: refuses an id with a path in it', async () => {
    await makeBench();
    const specs: Partial<VmSpec>[] = [{ id: '../../x' }, { id: 'a/b' }, { id: 'a_b' }, { id: '' }];
    for (const wrong of specs) {
      const failure = bench.driver.start(bench.spec(wrong));
      await expect(failure).rejects.toMatchObject({ code: 'vm_spec_invalid' });
    }
    expect(readdirSync(baseDir)).toEqual([]);
  });

  it('start: ends a VMM if one of its threads has no filter', async () => {
    const filter = join(baseDir, '..', `nv-filter-${process.pid}`);
    try {
      writeFileSync(filter, EMPTY_FILTERS, { mode: 0o644 });
      await makeBench({ seccompFilterPath: filter });
      await expect(bench.start(bench.spec())).rejects.toMatchObject({
        code: 'vmm_start_failed',
        cause: expect.stringContaining('no system call filter'),
      });
      // A filter installed by the jail is not Firecracker's own.
      const launcher = await writeLauncher({ cacheDir: baseDir }, 'enforce');
      const wrapper = ['sh', '-c', '"$@"; exit $?', 'sh', launcher];
      await bench.close();
      await makeBench({
        jail: () => ({ jailer, baseDir, uid: UID, gid: GID, wrapper, filters: 1 }),
        seccompFilterPath: filter,
      });
      await expect(bench.start(bench.spec())).rejects.toMatchObject({
        cause: expect.stringContaining('no system call filter'),
      });
      await bench.close();
      await makeBench({ seccompFilterPath: filter });
      writeFileSync(filter, 'nonsense');
      await expect(bench.start(bench.spec())).rejects.toMatchObject({
        code: 'vmm_start_failed',
        cause: expect.stringContaining('it ended with status 1'),
      });
      expect(readdirSync(join(baseDir, 'firecracker'))).toEqual([]);
      writeFileSync(filter, EMPTY_FILTERS, { mode: 0o644 });
      const direct = await createFirecrackerDriver({
        binary: firecracker,
        clock: systemClock,
        log: silentLog,
        seccompFilterPath: filter,
        requiresFilter: true,
      });
      await expect(direct.start(bench.spec())).rejects.toMatchObject({
        cause: expect.stringContaining('no system call filter'),
      });
    } finally {
      rmSync(filter, { force: true });
    }
  });

  it('reclaimJails: ends and removes only jails of a killed owner', async () => {
    await makeBench();
    const mine = await bench.boot();
    const dir = join(baseDir, 'vm');
    mkdirSync(dir, { mode: 0o700 });
    const owner = spawn(process.execPath, [HOLD, dir, baseDir, JSON.stringify(files)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const pid = Number(await new Promise((resolve) => owner.stdout.once('data', resolve)));
    expect(pid).toBeGreaterThan(1);
    expect(await reclaimJails(baseDir, silentLog)).toBe(0);
    owner.kill('SIGKILL');
    await once(owner, 'exit');
    expect(startTicksOf(pid)).toBeDefined();
    expect(await reclaimJails(baseDir, silentLog)).toBe(1);
    expect(startTicksOf(pid)).toBeUndefined();
    expect(readdirSync(join(baseDir, 'firecracker'))).toEqual([mine.id]);
    expect(await ask(mine, 'PRINT still here')).toBe('done');
    expect(await reclaimJails(join(baseDir, 'none'), silentLog)).toBe(0);
  });

  it('adopt: a VM whose owner was killed continues with its new owner, and ends with it', async () => {
    await makeBench();
    const dir = join(baseDir, 'vm');
    mkdirSync(dir, { mode: 0o700 });
    const owner = spawn(process.execPath, [HOLD, dir, baseDir, JSON.stringify(files)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const pid = Number(await new Promise((resolve) => owner.stdout.once('data', resolve)));
    const spec = {
      ...bench.spec({ memoryMib: 64 }),
      id: 'held',
      dir,
      overlayPath: join(dir, 'overlay'),
      channelPath: join(dir, 'v'),
    };
    const driver = await makeJailDriver({ uid: 61_236, gid: 61_236 });
    const sockets = () => readdirSync(dir).filter((name) => lstatSync(join(dir, name)).isSocket());
    const before = sockets();
    expect(before).toContain('v');
    await expect(driver.adopt(spec)).rejects.toMatchObject({ code: 'vm_unsupported' });
    // The owner's channel is unchanged.
    expect(sockets()).toEqual(before);
    owner.kill('SIGKILL');
    await once(owner, 'exit');
    const vm = await driver.adopt(spec);
    expect(vm.pid).toBe(pid);
    expect(vm.isAlive()).toBe(true);
    expect(await reclaimJails(baseDir, silentLog)).toBe(0);
    expect(await ask(vm, 'WRITE adopted')).toBe('done');
    const port = await bench.listen(spec.channelPath, 2000);
    await vm.pause();
    await vm.resume();
    expect(await vm.channelStats()).toMatchObject({ connectionsOpened: expect.any(Number) });
    const paths = { statePath: join(dir, 'state'), memoryPath: join(dir, 'memory') };
    expect(await vm.saveWhole?.(paths)).toMatchObject(paths);
    await port.close();
    await Promise.all([vm.kill(), vm.kill()]);
    expect(await vm.exited).toMatchObject({ cause: 'killed' });
    expect(startTicksOf(pid)).toBeUndefined();
    expect(readdirSync(join(baseDir, 'firecracker'))).toEqual([]);
    expect(lstatSync(spec.overlayPath).uid).toBe(0);
    await expect(driver.adopt(spec)).rejects.toMatchObject({ code: 'vm_gone' });
    await expect(vm.pause()).rejects.toMatchObject({ code: 'vm_gone' });
  });

  it('start: a VMM that replaces its folder by a link moves no file of the host', async () => {
    await makeBench({ tracksDirtyPages: true });
    const spec = bench.spec({ memoryMib: 64 });
    const vm = await bench.boot(spec);
    const victim = join(baseDir, 'victim');
    mkdirSync(victim, { mode: 0o700 });
    writeFileSync(join(victim, 'state'), 'of the host');
    const root = join(baseDir, 'firecracker', vm.id, 'root');
    execFileSync('mv', [join(root, 'fc'), join(root, 'moved')]);
    symlinkSync(victim, join(root, 'fc'));
    const paths = { statePath: join(spec.dir, 'state'), memoryPath: join(spec.dir, 'memory') };
    await expect(vm.saveWhole?.(paths)).rejects.toMatchObject({ code: 'vmm_command_failed' });
    expect(readdirSync(victim)).toEqual(['state']);
    expect(readFileSync(join(victim, 'state'), 'utf8')).toBe('of the host');
    await vm.kill();
    expect(existsSync(join(victim, 'state'))).toBe(true);
    expect(readdirSync(join(baseDir, 'firecracker'))).toEqual([]);
  });
});
