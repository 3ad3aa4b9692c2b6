/** Whole snapshots and their clones with a real Firecracker. */
import {
  appendFileSync,
  constants,
  copyFileSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import type { Vm, VmmDriver, VmSnapshot, VmSpec } from '../../src/machine/vmm/driver.ts';
import { createFirecrackerDriver } from '../../src/machine/vmm/firecracker/driver.ts';
import { sealSize } from '../../src/sys/fd.ts';
import { readAll, readBytes } from '../support/channel.ts';
import { ask, expectReleased, HELLO_PORT, held, openCommand, VmBench } from '../support/driver-parity.ts';
import { requiresFirecracker } from '../support/firecracker.ts';

const PATIENT = { timeout: 120_000 };
const ROUNDS = 20;

requiresFirecracker().describe('Firecracker snapshots', (files) => {
  const { firecracker } = files;
  let driver: VmmDriver;
  let bench: VmBench;
  beforeAll(async () => {
    driver = await makeDriver({ tracksDirtyPages: true });
  });
  beforeEach(() => {
    bench = new VmBench(driver, files);
  });
  afterEach(() => bench.close());

  function makeDriver(more: object): Promise<VmmDriver> {
    const common = { clock: systemClock, log: silentLog };
    return createFirecrackerDriver({ binary: firecracker, ...common, ...more });
  }

  interface Saved {
    readonly vm: Vm;
    readonly spec: VmSpec;
    readonly snapshot: VmSnapshot;
  }

  async function save(vm: Vm, dir: string, name = ''): Promise<VmSnapshot> {
    const paths = { statePath: join(dir, `state${name}`), memoryPath: join(dir, `memory${name}`) };
    const snapshot = await vm.saveWhole?.(paths);
    if (snapshot === undefined) throw new Error('the driver takes no whole snapshots');
    return snapshot;
  }

  async function saved(): Promise<Saved> {
    const spec = bench.spec({ memoryMib: 64 });
    const vm = await bench.boot(spec);
    return { vm, spec, snapshot: await save(vm, spec.dir) };
  }

  const cloneSpec = (of: Saved): VmSpec => bench.spec({ memoryMib: 64, snapshot: of.snapshot });

  /** Resolves when the clone's guest has reported that it is ready. */
  async function clone(of: Saved, spec = cloneSpec(of)): Promise<Vm> {
    copyFileSync(of.spec.overlayPath, spec.overlayPath);
    const hello = await bench.listen(spec.channelPath, HELLO_PORT);
    const vm = await bench.start(spec);
    expect((await readAll(await hello.accept())).toString()).toBe('ready\n');
    return vm;
  }

  it('saveWhole: two clones run side by side, each with its own channel, disk and generation', async () => {
    const of = await saved();
    const [one, two] = await Promise.all([clone(of), clone(of)]);
    expect(await ask(one, 'WRITE one')).toBe('done');
    expect(await ask(two, 'INFO disk1')).toBe('');
    expect(await ask(one, 'INFO disk1')).toBe('one');
    const [first, second] = [await ask(one, 'INFO generation'), await ask(two, 'INFO generation')];
    expect(first).toMatch(/^[0-9a-f]{32}$/);
    expect(first).not.toBe(second);
    await of.vm.resume();
    await expect.poll(() => ask(of.vm, 'PRINT still here').catch(String), PATIENT).toBe('done');
  });

  it('saveWhole: only the owner can read RAM and state, and clones do not change RAM', async () => {
    const of = await saved();
    const { statePath, memoryPath = '' } = of.snapshot;
    for (const path of [statePath, memoryPath]) expect(statSync(path).mode & 0o777).toBe(0o600);
    const before = readFileSync(memoryPath);
    const vm = await clone(of);
    await ask(vm, 'PRINT something else');
    expect(readFileSync(memoryPath).equals(before)).toBe(true);
    // Existing files are never overwritten.
    for (const taken of ['state', 'memory']) {
      const paths = { statePath: join(of.spec.dir, 'new-s'), memoryPath: join(of.spec.dir, 'new-m') };
      const save = vm.saveWhole?.({ ...paths, [`${taken}Path`]: join(of.spec.dir, taken) });
      await expect(save).rejects.toMatchObject({ code: 'vmm_command_failed' });
      expect(readdirSync(of.spec.dir)).toEqual(expect.arrayContaining(['memory', 'state']));
      expect(readdirSync(of.spec.dir)).not.toContain(taken === 'state' ? 'new-m' : 'new-s');
    }
    expect(await ask(vm, 'PRINT still here')).toBe('done');
  });

  it('saveWhole: writes a diff into the RAM of the previous snapshot', async () => {
    const of = await saved();
    const memoryPath = join(of.spec.dir, 'next');
    copyFileSync(of.snapshot.memoryPath ?? '', memoryPath, constants.COPYFILE_FICLONE);
    await of.vm.resume();
    await expect.poll(() => ask(of.vm, 'INFO loads').catch(String), PATIENT).toBe('1');
    const statePath = join(of.spec.dir, 'next-state');
    const snapshot = await of.vm.saveWhole?.({ statePath, memoryPath }, 'diff');
    if (snapshot === undefined) throw new Error('no diff snapshot');
    const vm = await clone({ ...of, snapshot });
    expect(await ask(vm, 'INFO loads')).toBe('2');
    const first = await clone(of);
    expect(await ask(first, 'INFO loads')).toBe('1');
  });

  it('saveWhole: refuses a diff of a VM without tracking of written pages', async () => {
    const plain = new VmBench(await makeDriver({}), files);
    try {
      const spec = plain.spec({ memoryMib: 64 });
      const vm = await plain.boot(spec);
      const paths = { statePath: join(spec.dir, 's'), memoryPath: join(spec.dir, 'm') };
      await expect(vm.saveWhole?.(paths, 'diff')).rejects.toMatchObject({ code: 'vm_unsupported' });
      expect(await ask(vm, 'PRINT still here')).toBe('done');
    } finally {
      await plain.close();
    }
  });

  it('start: refuses a snapshot that is truncated, altered, missing or of another machine', async () => {
    const of = await saved();
    const { statePath, memoryPath = '' } = of.snapshot;
    const refuse = async (more: Partial<VmSpec>, code = 'snapshot_refused'): Promise<void> => {
      const spec = bench.spec({ memoryMib: 64, snapshot: of.snapshot, ...more });
      const before = held();
      await expect(driver.start(spec)).rejects.toMatchObject({ code });
      expect(readdirSync(spec.dir)).toEqual(['overlay']);
      await expectReleased(before);
    };
    await refuse({ snapshot: { ...of.snapshot, machine: `${of.snapshot.machine}x` } });
    await refuse({ snapshot: { ...of.snapshot, statePath: `${statePath}.none` } });
    await refuse({ memoryMib: 128 });
    const whole = readFileSync(statePath);
    for (const wrong of [whole.subarray(0, -1), Buffer.alloc(0)]) {
      writeFileSync(statePath, wrong);
      await refuse({});
    }
    writeFileSync(statePath, whole);
    appendFileSync(statePath, 'x');
    await refuse({});
    writeFileSync(statePath, whole);
    await refuse({ snapshot: { ...of.snapshot, memoryPath: `${memoryPath}.none` } });
    truncateSync(memoryPath, 4096);
    await refuse({});
  });

  it(`start: ${ROUNDS} snapshots under traffic, and each clone answers (S9)`, async () => {
    const of = await saved();
    let vm = await clone(of);
    let last = of;
    for (let round = 0; round < ROUNDS; round += 1) {
      const echo = await openCommand(vm, 'ECHO');
      echo.write(Buffer.alloc(200_000, round));
      await readBytes(echo, 1_000);
      const snapshot = await save(vm, last.spec.dir, `${round}`);
      await vm.kill();
      last = { ...last, snapshot };
      const spec = bench.spec({ memoryMib: 64, snapshot });
      const hello = await bench.listen(spec.channelPath, HELLO_PORT);
      vm = await bench.start(spec);
      // Does not wait for the hello.
      expect(await ask(vm, `PRINT round ${round}`)).toBe('done');
      expect((await readAll(await hello.accept())).toString()).toBe('ready\n');
    }
    expect(await ask(vm, 'INFO loads')).toBe(`${ROUNDS + 1}`);
  });

  it.each([true, false])(
    'saveState: each generation of clones keeps the state of those before (written pages tracked: %s)',
    async (tracksDirtyPages) => {
      const own = new VmBench(await makeDriver({ tracksDirtyPages }), files);
      try {
        let { spec, snapshot } = await own.saved();
        for (let generation = 1; generation <= 3; generation += 1) {
          const plain = own.spec();
          const memoryFd = own.memory(plain, spec.memoryFd);
          // Sealed like the memory file of a sandbox.
          sealSize(memoryFd);
          const clone = { ...plain, memoryFd, snapshot, channelLimits: {} };
          const vm = await own.start(clone);
          await expect.poll(() => ask(vm, 'INFO loads').catch(String), PATIENT).toBe(`${generation}`);
          await vm.vsockHotplug?.unplugVsock();
          const taken = await vm.saveState?.(join(clone.dir, 'state'));
          if (taken === undefined) throw new Error('no snapshot');
          // The VM continues; the snapshot lacks its later writes.
          await vm.resume();
          await vm.vsockHotplug?.plugVsock(200);
          await expect.poll(() => ask(vm, 'PRINT on').catch(String), PATIENT).toBe('done');
          spec = clone;
          snapshot = taken;
        }
      } finally {
        await own.close();
      }
    },
  );

  it('saveState: writes all of RAM after a whole snapshot, not only later changes', async () => {
    const plain = bench.spec({ memoryMib: 64 });
    const spec = { ...plain, memoryFd: bench.memory(plain) };
    const vm = await bench.boot(spec);
    await save(vm, spec.dir);
    await vm.resume();
    await vm.vsockHotplug?.unplugVsock();
    const snapshot = await vm.saveState?.(join(spec.dir, 'second'));
    if (snapshot === undefined) throw new Error('no snapshot');
    const clone = await bench.clone({ spec, snapshot }, { memoryMib: 64 });
    await expect.poll(() => ask(clone, 'INFO loads').catch(String), PATIENT).toBe('2');
  });

  it('start: the guest of a clone reaches the host by the channel of the clone', async () => {
    const of = await saved();
    const spec = cloneSpec(of);
    const port = await bench.listen(spec.channelPath, 2000);
    const vm = await clone(of, spec);
    const answer = ask(vm, 'DIAL 2000');
    (await port.accept()).end('pong');
    expect(await answer).toBe('pong');
  });
});
