/**
 * The common contract of all drivers (R-CP-6). The guest speaks the protocol of `test/fixtures/echo-guest.c`, as does
 * the fake driver's scripted guest.
 */
import { randomBytes } from 'node:crypto';
import {
  appendFileSync,
  chmodSync,
  copyFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { sleep } from '../../src/base/clock.ts';
import type { Vm, VmmDriver, VmSnapshot, VmSpec } from '../../src/machine/vmm/driver.ts';
import { closeFd, createMemFd } from '../../src/sys/fd.ts';
import { dataExtents } from '../../src/sys/file.ts';
import { dialGuest, type GuestPort, listenForGuestPort, readAll, readBytes } from './channel.ts';
import { balloonCases } from './driver-parity-balloon.ts';
import { mappedCases } from './driver-parity-mapped.ts';
import { nicCases } from './driver-parity-nic.ts';

export interface ParityFiles {
  readonly kernelPath: string;
  readonly rootImagePath: string;
}

export const HELLO_PORT = 1024;
export const COMMAND_PORT = 5000;
const OVERLAY_BYTES = 1024 * 1024;
const ID_ALPHABET = 'abcdefghij';

/** A directory with a VM's files, and the VMs started in it; `close` ends them all, and the driver. */
export class VmBench {
  readonly driver: VmmDriver;
  readonly #files: ParityFiles;
  readonly #dirs: string[] = [];
  readonly #vms: Vm[] = [];
  readonly #ports: GuestPort[] = [];
  readonly #memories: number[] = [];

  constructor(driver: VmmDriver, files: ParityFiles) {
    this.driver = driver;
    this.#files = files;
  }

  spec(more: Partial<VmSpec> = {}): VmSpec {
    const dir = mkdtempSync(join(tmpdir(), 'nv-vm-'));
    this.#dirs.push(dir);
    const overlayPath = join(dir, 'overlay');
    writeFileSync(overlayPath, Buffer.alloc(OVERLAY_BYTES));
    const n = this.#dirs.length;
    return {
      id: `vm${ID_ALPHABET[n % 10]}${process.pid}x${n}`,
      dir,
      cpus: 1,
      memoryMib: 128,
      ...this.#files,
      overlayPath,
      guestCid: 100 + n,
      channelPath: join(dir, 'v'),
      console: 'log',
      ...more,
    };
  }

  /** Starts a VM and waits until its guest reports that it is ready. */
  async boot(more: Partial<VmSpec> = {}): Promise<Vm> {
    const spec = this.spec(more);
    const hello = await this.listen(spec.channelPath, HELLO_PORT);
    const vm = await this.driver.start(spec);
    this.#vms.push(vm);
    const exited = vm.exited.then((exit): never => {
      throw new Error(`the guest ended before its hello: ${exit.cause}\n${vm.consoleTail()}`);
    });
    const socket = await Promise.race([hello.accept(), exited]);
    expect((await readAll(socket)).toString()).toBe('ready\n');
    socket.destroy();
    return vm;
  }

  /** Does not wait for the guest; `close` ends this VM, too. */
  async start(spec: VmSpec): Promise<Vm> {
    const vm = await this.driver.start(spec);
    this.#vms.push(vm);
    return vm;
  }

  /** RAM for `spec`, new or a copy of another. */
  memory(spec: VmSpec, from?: number): number {
    const fd = createMemFd('test', spec.memoryMib * 1024 * 1024);
    this.#memories.push(fd);
    if (from === undefined) return fd;
    const chunk = Buffer.alloc(1024 * 1024);
    for (const { start, end } of dataExtents(from)) {
      for (let at = start; at < end; ) {
        const bytes = readSync(from, chunk, 0, Math.min(chunk.length, end - at), at);
        at += writeSync(fd, chunk, 0, bytes, at);
      }
    }
    return fd;
  }

  /** Boots a VM, unplugs its channel, saves it and ends it. */
  async saved(): Promise<{ spec: VmSpec; snapshot: VmSnapshot }> {
    const plain = this.spec();
    const spec = { ...plain, memoryFd: this.memory(plain) };
    const vm = await this.boot(spec);
    await vm.vsockHotplug?.unplugVsock();
    const snapshot = await vm.saveState?.(join(spec.dir, 'state'));
    if (snapshot === undefined) throw new Error('the driver takes no snapshots');
    await vm.kill();
    return { spec, snapshot };
  }

  /** A clone: RAM and overlay are copies. */
  async clone(of: { spec: VmSpec; snapshot: VmSnapshot }, more: Partial<VmSpec> = {}): Promise<Vm> {
    const plain = this.spec(more);
    copyFileSync(of.spec.overlayPath, plain.overlayPath);
    const memoryFd = this.memory(plain, of.spec.memoryFd);
    try {
      const vm = await this.driver.start({ snapshot: of.snapshot, ...plain, memoryFd, ...more });
      this.#vms.push(vm);
      return vm;
    } catch (error) {
      closeFd(this.#memories.pop() ?? -1);
      throw error;
    }
  }

  async listen(channelPath: string, port: number): Promise<GuestPort> {
    const listener = await listenForGuestPort(channelPath, port);
    this.#ports.push(listener);
    return listener;
  }

  async close(): Promise<void> {
    for (const vm of this.#vms.splice(0)) await vm.kill();
    await this.driver.close?.();
    for (const port of this.#ports.splice(0)) await port.close();
    for (const fd of this.#memories.splice(0)) closeFd(fd);
    for (const dir of this.#dirs.splice(0)) rmSync(dir, { recursive: true, force: true });
  }
}

/** Sends one command and returns the guest's whole answer. */
export async function ask(vm: Vm, command: string): Promise<string> {
  const socket = await openCommand(vm, command);
  try {
    return (await readAll(socket)).toString();
  } finally {
    socket.destroy();
  }
}

export async function openCommand(vm: Vm, command: string): Promise<Socket> {
  const socket = await dialGuest(vm.channelPath, COMMAND_PORT);
  if (socket === null) throw new Error('the guest does not listen for commands');
  socket.write(`${command}\n`);
  return socket;
}

/** Resources that a driver could leak: our descriptors and child processes. */
export function held(): { fds: number; children: string } {
  return {
    fds: readdirSync('/proc/self/fd').length,
    children: readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8'),
  };
}

/**
 * Waits until no more resources are in use than before. Descriptors of an earlier VM's RAM are closed in the
 * background, so there may be fewer.
 */
export async function expectReleased(before: ReturnType<typeof held>): Promise<void> {
  await expect.poll(() => held().children).toBe(before.children);
  await expect.poll(() => held().fds).toBeLessThanOrEqual(before.fds);
}

/** @param without capabilities that the driver lacks */
export function driverParity(
  makeDriver: () => Promise<VmmDriver>,
  files: () => Promise<ParityFiles>,
  without: readonly ('snapshot' | 'mapped' | 'nic' | 'disks' | 'poweroff' | 'paused-connections' | 'flood')[] = [],
): void {
  let bench: VmBench;
  let driver: VmmDriver;
  let paths: ParityFiles;
  beforeAll(async () => {
    driver = await makeDriver();
    paths = await files();
  });
  beforeEach(() => {
    bench = new VmBench(driver, paths);
  });
  afterEach(() => bench.close());
  lifeCases(() => bench, !without.includes('paused-connections'));
  endCases(() => bench, without.includes('poweroff') ? ['REBOOT', 'PANIC'] : ['REBOOT', 'POWEROFF', 'PANIC']);
  channelCases(() => bench);
  consoleCases(() => bench, !without.includes('flood'));
  if (!without.includes('snapshot')) snapshotCases(() => bench);
  if (!without.includes('mapped')) mappedCases(() => bench);
  if (!without.includes('nic')) nicCases(() => bench);
  if (!without.includes('disks')) diskCases(() => bench);
  balloonCases(() => bench);
  refusalCases(() => bench);
}

function diskCases(bench: () => VmBench): void {
  it('disks: further disks come after the overlay, in order; only one for writing changes', async () => {
    const plain = bench().spec();
    const disks = (['read', 'write'] as const).map((access) => {
      const path = join(plain.dir, access);
      writeFileSync(path, Buffer.concat([Buffer.from(access.slice(0, 4)), Buffer.alloc(65_532)]));
      chmodSync(path, 0o644);
      return { path, access };
    });
    const vm = await bench().boot({ ...plain, disks });
    expect(await ask(vm, 'INFO disk c')).toBe('read refused');
    expect(await ask(vm, 'INFO disk d')).toBe('writ written');
    expect(await ask(vm, 'INFO disk e')).toBe('absent');
    await vm.setDiskLimits({ opsPerSecond: 1000 });
    await vm.kill();
    expect(disks.map(({ path }) => readFileSync(path).subarray(0, 4).toString())).toEqual(['read', '\0\0\0\0']);
  });
}

function snapshotCases(bench: () => VmBench): void {
  describe('snapshot', () => {
    it('start: two clones of a snapshot run side by side, each with a channel of its own', async () => {
      const saved = await bench().saved();
      const [one, two] = await Promise.all([bench().clone(saved), bench().clone(saved)]);
      await expect.poll(() => ask(one, 'PRINT one').catch(String)).toBe('done');
      await expect.poll(() => ask(two, 'PRINT two').catch(String)).toBe('done');
      expect(one.consoleTail()).toContain('one');
      expect(one.consoleTail()).not.toContain('two');
      expect(one.logs.console.text()).toContain('one');
      expect(one.logs.console.total).toBeGreaterThan(0);
    });

    it('saveState: the VM pauses, continues with a fresh channel, and can be saved again', async () => {
      const plain = bench().spec();
      const vm = await bench().boot({ ...plain, memoryFd: bench().memory(plain) });
      const states: string[] = [];
      for (const name of ['one', 'two']) {
        await vm.vsockHotplug?.unplugVsock();
        const snapshot = await vm.saveState?.(join(plain.dir, name));
        states.push(snapshot?.stateSha256 ?? '');
        await vm.resume();
        await vm.vsockHotplug?.plugVsock(200);
        await expect.poll(() => ask(vm, `PRINT ${name}`).catch(String)).toBe('done');
      }
      expect(states.every((digest) => /^[0-9a-f]{64}$/.test(digest))).toBe(true);
      expect(vm.consoleTail()).toMatch(/one[\s\S]*two/);
    });

    it('start: a snapshot that is cut off, altered, missing or of another machine is refused', async () => {
      const saved = await bench().saved();
      const { statePath } = saved.snapshot;
      const refuse = async (more: Partial<VmSpec>): Promise<void> => {
        const clone = bench().clone(saved, more);
        await expect(clone).rejects.toMatchObject({ code: 'snapshot_refused' });
      };
      const machine = `${saved.snapshot.machine}x`;
      await refuse({ snapshot: { ...saved.snapshot, machine } });
      await refuse({ snapshot: { ...saved.snapshot, statePath: `${statePath}.none` } });
      const whole = readFileSync(statePath);
      const altered = Buffer.from(whole);
      altered[altered.length >> 1] = (altered[altered.length >> 1] ?? 0) ^ 1;
      for (const wrong of [whole.subarray(0, -1), Buffer.alloc(0), altered]) {
        writeFileSync(statePath, wrong);
        await refuse({});
      }
      writeFileSync(statePath, whole);
      appendFileSync(statePath, 'x');
      await refuse({});
      writeFileSync(statePath, whole);
      // With another size, either the RAM does not fit or the machine differs.
      const smaller = bench().clone(saved, { memoryMib: 64 });
      const code = expect.stringMatching(/^(vm_spec_invalid|snapshot_refused)$/);
      await expect(smaller).rejects.toMatchObject({ code });
      const before = held();
      await refuse({ snapshot: { ...saved.snapshot, machine } });
      await expectReleased(before);
    });

    it('saveState: refused while vsock is plugged, and if the VMM owns the RAM', async () => {
      const plain = bench().spec();
      const plugged = await bench().boot({ ...plain, memoryFd: bench().memory(plain) });
      const unnamed = await bench().boot();
      await unnamed.vsockHotplug?.unplugVsock();
      for (const vm of [plugged, unnamed]) {
        const saving = vm.saveState?.(join(plain.dir, 'state'));
        await expect(saving).rejects.toMatchObject({ code: 'vm_unsupported' });
      }
      expect(await ask(plugged, 'PRINT still here')).toBe('done');
      expect(readdirSync(plain.dir)).not.toContain('state');
    });
  });
}

/** @param keepsConnections over a pause, as all but Firecracker 1.16 do */
function lifeCases(bench: () => VmBench, keepsConnections: boolean): void {
  describe('life', () => {
    it('start: the guest runs; kill: ends it, also when repeated, and leaves nothing', async () => {
      await (await bench().boot()).kill(); // what is made once per process is made now
      await sleep(50);
      const before = held();
      const vm = await bench().boot();
      expect(vm.timings.runningMs).toBeGreaterThanOrEqual(vm.timings.spawnedMs);
      await Promise.all([vm.kill(), vm.kill()]);
      await vm.kill();
      expect((await vm.exited).cause).toBe('killed');
      await expect(vm.pause()).rejects.toMatchObject({ code: 'vm_gone' });
      await expect(vm.channelStats()).rejects.toMatchObject({ code: 'vm_gone' });
      const dir = join(vm.channelPath, '..');
      expect(readdirSync(dir).sort()).toEqual(['overlay', `v_${HELLO_PORT}`]);
      await bench().close();
      await expectReleased(before);
    });

    it('pause: the guest stops; resume: it continues where it was', async () => {
      const vm = await bench().boot();
      const echo = await openCommand(vm, 'ECHO');
      await vm.pause();
      await vm.pause();
      echo.write('still there');
      const answer = readBytes(echo, 'still there'.length);
      answer.catch(() => undefined);
      expect(await Promise.race([answer, sleep(300, undefined)])).toBeUndefined();
      await vm.resume();
      const after = keepsConnections ? String(await answer) : await ask(vm, 'PRINT still there');
      expect(after).toBe(keepsConnections ? 'still there' : 'done');
    });

    it('start: two VMs at once have separate channels', async () => {
      const [one, two] = await Promise.all([bench().boot(), bench().boot()]);
      await one.kill();
      expect(await ask(two, 'PRINT here')).toBe('done');
    });
  });
}

function endCases(bench: () => VmBench, commands: readonly string[]): void {
  describe('end', () => {
    it.each(commands)('exited: %s is a guest-shutdown', async (command) => {
      const vm = await bench().boot();
      (await openCommand(vm, command)).resume();
      expect(await vm.exited).toMatchObject({ cause: 'guest-shutdown', exitCode: 0 });
      expect(readdirSync(join(vm.channelPath, '..'))).not.toContain('v');
      await vm.kill();
    });
  });
}

function channelCases(bench: () => VmBench): void {
  describe('channel', () => {
    it('channel: bytes come back unchanged', async () => {
      const vm = await bench().boot();
      const sent = randomBytes(512 * 1024);
      const echo = await openCommand(vm, 'ECHO');
      echo.write(sent);
      expect((await readBytes(echo, sent.length)).equals(sent)).toBe(true);
      const stats = await vm.channelStats();
      expect(stats.bytesGuestToHost).toBeGreaterThanOrEqual(sent.length);
      expect(stats.bytesHostToGuest).toBeGreaterThanOrEqual(sent.length);
      expect(stats.connectionsOpened).toBeGreaterThanOrEqual(2);
    });

    it('channel: the guest reaches a host port with a listener, and no other', async () => {
      const spec = bench().spec();
      // Before the start, as the contract requires: a jail shows no others.
      const port = await bench().listen(spec.channelPath, 2000);
      const vm = await bench().boot(spec);
      const answer = ask(vm, 'DIAL 2000');
      const socket = await port.accept();
      expect(String(await new Promise((resolve) => socket.once('data', resolve)))).toBe('ping');
      socket.end('pong');
      expect(await answer).toBe('pong');
      expect(await ask(vm, 'DIAL 2001')).toBe('refused');
    });

    it('channel: a guest port without a listener is refused', async () => {
      const vm = await bench().boot();
      expect(await dialGuest(vm.channelPath, 4999)).toBeNull();
      expect(await ask(vm, 'PRINT still here')).toBe('done');
    });

    it('setChannelLimits: accepted while the VM runs, or vm_unsupported', async () => {
      const vm = await bench().boot();
      const limits = { guestToHostBytes: { size: 1 << 20, refillPerSecond: 1 << 20 } };
      if (bench().driver.capabilities.channelLimits) {
        await vm.setChannelLimits(limits);
        expect(await ask(vm, 'PRINT limited')).toBe('done');
      } else {
        await expect(vm.setChannelLimits(limits)).rejects.toMatchObject({ code: 'vm_unsupported' });
      }
    });

    it('setDiskLimits: accepted at start, while the VM runs and while it is paused', async () => {
      const vm = await bench().boot({ diskLimits: { bytesPerSecond: 1 << 20, opsPerSecond: 500 } });
      await vm.setDiskLimits({ opsPerSecond: 1000 });
      expect(await ask(vm, 'PRINT limited')).toBe('done');
      await vm.pause();
      await vm.setDiskLimits({});
      await vm.resume();
      await expect.poll(() => ask(vm, 'PRINT free').catch(String)).toBe('done');
      await vm.kill();
      await expect(vm.setDiskLimits({})).rejects.toMatchObject({ code: 'vm_gone' });
    });

    it('unplugVsock: the channel is gone; plugVsock: a fresh one answers', async () => {
      const vm = await bench().boot();
      const plug = vm.vsockHotplug;
      if (plug === undefined) throw new Error('the driver has no plug for the channel');
      await plug.unplugVsock();
      expect(readdirSync(join(vm.channelPath, '..'))).not.toContain('v');
      await plug.plugVsock(77);
      await expect.poll(() => ask(vm, 'PRINT again').catch(String)).toBe('done');
    });
  });
}

const SLOW_CONSOLE = { timeout: 300_000, interval: 1_000 };

/** @param floods with 64 KiB of output, each byte of which is an exit to the VMM */
function consoleCases(bench: () => VmBench, floods: boolean): void {
  describe('console', () => {
    if (floods) floodCase(bench);

    it('terminal: input reaches the guest, and its output comes back', async () => {
      const vm = await bench().boot({ console: 'interactive' });
      let shown = '';
      const ended = new Promise((resolve) => vm.terminal?.output.once('end', resolve));
      vm.terminal?.output.on('data', (bytes: Buffer) => {
        shown += bytes.toString();
      });
      vm.terminal?.input.write('hello there\n');
      await expect.poll(() => shown).toContain('typed: hello there');
      expect(vm.consoleTail()).toContain('typed: hello there');
      await vm.kill();
      await ended;
    });
  });
}

/** Size of `consoleTail`. */
const TAIL_BYTES = 64 * 1024;

function floodCase(bench: () => VmBench): void {
  it('consoleTail: a flood is cut to 64 KiB and does not block the guest', async () => {
    const vm = await bench().boot();
    expect(vm.consoleTail()).toContain('init');
    expect(vm.terminal).toBeNull();
    // Firecracker drops output for which its reader, on a busy host, has no room. So try once more, if a flood ended.
    let before = -1;
    const flooded = async (): Promise<number> => {
      const { length } = vm.consoleTail();
      if (length === before && length < TAIL_BYTES) await ask(vm, 'FLOOD');
      before = length;
      return length;
    };
    expect(await ask(vm, 'FLOOD')).toBe('flooding');
    await expect.poll(flooded, SLOW_CONSOLE).toBe(TAIL_BYTES);
    expect(await ask(vm, 'PRINT marker')).toBe('done');
  });
}

/** Checked with the request already, so a wrong value is a programmer error. */
const IMPOSSIBLE: readonly [string, Partial<VmSpec>][] = [
  ['memoryMib', { memoryMib: 63 }],
  ['memoryMib', { memoryMib: 1.5e6 }],
  ['balloonMib', { balloonMib: 100 }],
  ['balloonMib', { balloonMib: -1 }],
  ['guestCid', { guestCid: 2 }],
  ['guestCid', { guestCid: 2 ** 32 - 1 }],
];
/** A wrong value for each field that becomes part of a command line. */
const WRONG: readonly [string, Partial<VmSpec>][] = [
  ['id', { id: '../x' }],
  ['cpus', { cpus: 0 }],
  ['cpus', { cpus: 10_000 }],
  ['channelPath', { channelPath: `/tmp/${'x'.repeat(96)}` }],
  ['channelPath', { channelPath: 'relative' }],
  ['kernelPath', { kernelPath: '/nonexistent/vmlinux' }],
  ['kernelPath', { kernelPath: '/' }],
  ['rootImagePath', { rootImagePath: '/tmp/a\n-device' }],
  ['overlayPath', { overlayPath: '/nonexistent' }],
  ['dir', { dir: '/nonexistent' }],
  ['memoryFd', { memoryFd: 0 }],
  ['memoryFd', { memoryFd: 1_000_000 }],
  ['bootArgs', { bootArgs: ['debug init=/bin/sh'] }],
  ['bootArgs', { bootArgs: ['init=/bin/sh'] }],
];

function refusalCases(bench: () => VmBench): void {
  describe('refusals', () => {
    it.each(WRONG)('start: a wrong %s is refused by name (%j)', async (field, wrong) => {
      const before = held();
      const failure = bench().driver.start(bench().spec(wrong));
      await expect(failure).rejects.toMatchObject({ code: 'vm_spec_invalid' });
      await expect(failure).rejects.toThrow(`the VM's ${field} `);
      await expectReleased(before);
    });

    it.each(IMPOSSIBLE)('start: a wrong %s fails an assertion, and leaves nothing (%j)', async (field, wrong) => {
      const before = held();
      const failure = bench().driver.start(bench().spec(wrong));
      await expect(failure).rejects.toMatchObject({ name: 'AssertionError', message: expect.stringContaining(field) });
      await expectReleased(before);
    });

    it('start: canceled before and during the start, it leaves nothing', async () => {
      // Resources that the first start of a process opens permanently, for example for its threads.
      await (await bench().boot()).kill();
      const before = held();
      for (const afterMs of [null, 0, 5, 30]) {
        const spec = bench().spec();
        const aborter = new AbortController();
        if (afterMs === null) aborter.abort();
        else setTimeout(() => aborter.abort(), afterMs);
        const started = bench().driver.start(spec, aborter.signal);
        // A start that was faster than the cancellation is a VM like any other.
        const outcome = await started.then(
          (vm) => vm.kill().then(() => 'vm_cancelled'),
          (error: { code: string }) => error.code,
        );
        expect(outcome).toBe('vm_cancelled');
        expect(readdirSync(spec.dir)).toEqual(['overlay']);
      }
      await expectReleased(before);
    });
  });
}
