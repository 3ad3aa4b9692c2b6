/** Devices and end of a VM in a real Firecracker. */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { KIB } from '../../src/base/units.ts';
import type { Vm } from '../../src/machine/vmm/driver.ts';
import { PIECE_BYTES_MAX } from '../../src/machine/vmm/firecracker/channel/relay-socket.ts';
import { type RelayThread, startRelayThread } from '../../src/machine/vmm/firecracker/channel/relay-thread.ts';
import { createFirecrackerDriver, type FirecrackerDriverOptions } from '../../src/machine/vmm/firecracker/driver.ts';
import { FirecrackerVm } from '../../src/machine/vmm/firecracker/vm.ts';
import { readAll, readBytes } from '../support/channel.ts';
import { ask, HELLO_PORT, openCommand, VmBench } from '../support/driver-parity.ts';
import { requiresFirecracker } from '../support/firecracker.ts';
import { NamespacedProcess } from '../support/net-namespace.ts';
import { requiresRoot } from '../support/requires.ts';

const PATIENT = { timeout: 120_000 };
const MAC = 'aa:fc:00:00:00:07';
const UID = 61_237;

/** The guest answers pings at 172.31.77.2. */
const PING = `
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
s.settimeout(1)
body = struct.pack('!HH', 7, 1) + b'neurovisor'
total = sum(struct.unpack('!7H', body)) + 0x800
total = (total & 0xffff) + (total >> 16)
for _ in range(20):
    s.sendto(struct.pack('!BBH', 8, 0, ~total & 0xffff) + body, ('172.31.77.2', 0))
    try:
        while True:
            got = s.recv(100)[20:]
            if got[0] == 0 and got[4:] == body: print('pong'); sys.exit()
    except TimeoutError:
        pass
print('silence')
`;

/** Sends bytes to the guest's port 5000, and counts those that come back. */
const ECHO = `
const [path, bytes] = process.argv.slice(1);
const socket = require('node:net').connect(path);
let left = Number(bytes);
socket.write('CONNECT 5000\\n');
socket.once('data', () => {
  socket.on('data', (part) => {
    left -= part.length;
    if (left > 0) return;
    process.stdout.write(bytes);
    socket.destroy();
  });
  socket.write('ECHO\\n' + 'x'.repeat(left));
});
`;

requiresFirecracker().describe('Firecracker devices', (files) => {
  const found = files;
  let bench: VmBench | undefined;
  afterEach(() => bench?.close());

  async function makeBench(more: Partial<FirecrackerDriverOptions> = {}): Promise<VmBench> {
    const driver = await createFirecrackerDriver({
      binary: found.firecracker,
      clock: systemClock,
      log: silentLog,
      ...more,
    });
    bench = new VmBench(driver, found);
    return bench;
  }

  it('start: gives the guest the memory, command line and root of its spec', async () => {
    const of = await makeBench();
    const vm = await of.boot({ memoryMib: 100, balloonMib: 0, guestCid: 77, bootArgs: ['loglevel=3'] });
    const mib = Number(await ask(vm, 'INFO memory')) / 2 ** 20;
    expect(mib).toBeGreaterThan(99);
    expect(mib).toBeLessThanOrEqual(100);
    expect(await ask(vm, 'INFO cid')).toBe('77');
    const words = (await ask(vm, 'INFO cmdline')).split(' ');
    const devices = words.filter((word) => word.startsWith('virtio_mmio.device='));
    // Balloon, two disks, vsock, entropy; no network card.
    expect(devices).toHaveLength(5);
    expect(words.filter((word) => !devices.includes(word)).join(' ')).toBe(
      'console=ttyS0 quiet reboot=k panic=1 rootfstype=erofs init=/sbin/neurovisor-init loglevel=3 pci=off root=/dev/vda ro',
    );
    expect(await ask(vm, 'INFO disk0')).toBe('golden');
    expect(await ask(vm, 'INFO write-root')).toBe('refused');
    const [one, two] = [await ask(vm, 'INFO entropy'), await ask(vm, 'INFO entropy')];
    expect(one).toMatch(/^[0-9a-f]{32}$/);
    expect(one).not.toBe(two);
  });

  it('balloon: its pages are returned to the host, also for a clone whose RAM is a mapped file', async () => {
    const of = await makeBench();
    const spec = of.spec({ memoryMib: 192, balloonMib: 0 });
    const vm = await of.boot(spec);
    await fillAndShrink(vm);
    const paths = { statePath: join(spec.dir, 'state'), memoryPath: join(spec.dir, 'memory') };
    const snapshot = await vm.saveWhole?.(paths);
    if (snapshot === undefined) throw new Error('no snapshot');
    const clone = await of.boot(of.spec({ memoryMib: 192, balloonMib: 0, snapshot }));
    expect(await clone.balloon?.memoryMib()).toBe(64);
    await clone.balloon?.setMemory(192);
    await expect.poll(() => clone.balloon?.memoryMib(), PATIENT).toBe(192);
    await fillAndShrink(clone);
  });

  async function fillAndShrink(vm: Vm): Promise<void> {
    expect(await ask(vm, 'TOUCH 160')).toBe('done');
    expect(rssMib(vm)).toBeGreaterThan(160);
    await vm.balloon?.setMemory(64);
    await expect.poll(() => vm.balloon?.memoryMib(), PATIENT).toBe(64);
    expect(rssMib(vm)).toBeLessThan(90);
  }

  function rssMib({ pid }: Vm): number {
    const kib = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1];
    return Number(kib) / 1024;
  }

  it('start: a disk limit makes reads wait, and a running VM accepts a new one', async () => {
    const slow = { ops: { size: 1, refillPerSecond: 20 } };
    const of = await makeBench({ limits: { disk: slow, entropy: slow } });
    const vm = await of.boot();
    if (!(vm instanceof FirecrackerVm)) throw new Error('another VM');
    for (let round = 0; round < 4; round += 1) expect(await ask(vm, 'INFO disk0')).toBe('golden');
    const throttled = async (): Promise<number> => (await vm.counters()).sum('block', 'rate_limiter_throttled_events');
    const before = await throttled();
    expect(before).toBeGreaterThan(0);
    await vm.setDiskLimits({ opsPerSecond: 1_000_000 });
    await ask(vm, 'INFO disk0');
    const settled = await throttled();
    for (let round = 0; round < 4; round += 1) expect(await ask(vm, 'INFO disk0')).toBe('golden');
    expect(await throttled()).toBe(settled);
  });

  it('setDiskLimits: apply from the start, can be lifted, and are not inherited by a clone', async () => {
    const of = await makeBench();
    const slow = { opsPerSecond: 10 };
    const spec = of.spec({ memoryMib: 64, diskLimits: slow });
    const vm = await of.boot(spec);
    expect(await isOnceThrottled(vm)).toBe(true);
    const paths = { statePath: join(spec.dir, 'state'), memoryPath: join(spec.dir, 'memory') };
    const snapshot = await vm.saveWhole?.(paths);
    if (snapshot === undefined) throw new Error('no snapshot');
    await vm.resume();
    expect(await isOnceThrottled(vm)).toBe(true);
    await vm.setDiskLimits({});
    expect(await isThrottled(vm)).toBe(false);
    const clone = await of.boot(of.spec({ memoryMib: 64, snapshot, diskLimits: {} }));
    expect(await isThrottled(clone)).toBe(false);
    await clone.setDiskLimits(slow);
    expect(await isOnceThrottled(clone)).toBe(true);
  });

  it('setChannelLimits: bytes wait for their tokens, and flow when the limit is lifted', async () => {
    const of = await makeBench();
    // One full bucket, then no token for days.
    const limit = { size: 1024, refillPerSecond: 1e-6 };
    const vm = await of.boot({ channelLimits: { guestToHostBytes: limit } });
    const sent = randomBytes(4 * PIECE_BYTES_MAX);
    const echo = await openCommand(vm, 'ECHO');
    echo.write(sent);
    const echoed = readBytes(echo, sent.length);
    const throttledMs = async () => (await vm.channelStats()).throttledMsGuestToHost;
    await expect.poll(throttledMs, PATIENT).toBeGreaterThan(0);
    expect((await vm.channelStats()).bytesGuestToHost).toBeLessThan(1024 + PIECE_BYTES_MAX);
    await vm.setChannelLimits({});
    expect((await echoed).equals(sent)).toBe(true);
    await expect(vm.setChannelLimits({ connections: { size: -1, refillPerSecond: 1 } })).rejects.toMatchObject({
      code: 'vm_spec_invalid',
    });
    expect(await ask(vm, 'PRINT still here')).toBe('done');
  });

  it('channel: bytes of a guest pass while the main thread is blocked', async () => {
    const vm = await (await makeBench()).boot();
    const bytes = 64 * KIB;
    const program = [process.execPath, '-e', ECHO, vm.channelPath, String(bytes)] as const;
    const [command, ...args] = program;
    // Nothing on this event loop runs until the process has ended.
    const echo = spawnSync(command, args, { encoding: 'utf8', timeout: PATIENT.timeout });
    expect(echo).toMatchObject({ stderr: '', stdout: String(bytes) });
    expect((await vm.channelStats()).bytesGuestToHost).toBeGreaterThanOrEqual(bytes);
  });

  it('exited: a crash of the thread of all channels ends their VMs, and the next VM gets another thread', async () => {
    const threads: RelayThread[] = [];
    const of = await makeBench({
      startRelays(received, ended) {
        const thread = startRelayThread(received, ended);
        threads.push(thread);
        return thread;
      },
    });
    const vms = [await of.boot(), await of.boot()];
    const link = await openCommand(vms[0] as Vm, 'ECHO');
    // Handled at once: it ends long before it is awaited.
    const linkEnd = Promise.race([once(link, 'end'), once(link, 'close')]).then(
      () => null,
      (error: unknown) => error,
    );
    link.resume();
    // No such command can come: each channel is opened once.
    threads[0]?.post({ kind: 'open', channel: 1, innerPath: '', limits: {} });
    for (const vm of vms) {
      const exit = await vm.exited;
      expect(exit).toMatchObject({ cause: 'vmm-crashed', signal: null });
      expect(exit.detail).toContain("the VM's channel has failed");
      await expect(vm.channelStats()).rejects.toMatchObject({ code: 'vm_gone' });
      expect(readdirSync(join(vm.channelPath, '..'))).not.toContain('v');
    }
    const error = await linkEnd;
    if (error !== null) expect(error).toMatchObject({ code: 'ECONNRESET' });
    expect(await ask(await of.boot(), 'PRINT still here')).toBe('done');
    expect(threads.length).toBe(2);
  });

  requiresRoot().it('start: a card on a TAP by name, and another TAP for a clone', async () => {
    const space = NamespacedProcess.inNewNamespace();
    const baseDir = mkdtempSync(join(tmpdir(), 'nv-jail-'));
    try {
      for (const tap of ['tap-a', 'tap-b']) {
        space.run('ip', 'tuntap', 'add', tap, 'mode', 'tap', 'user', `${UID}`, 'vnet_hdr');
      }
      const netnsPath = `/proc/${space.pid}/ns/net`;
      const of = await makeBench({ jail: () => ({ jailer: found.jailer, baseDir, uid: UID, gid: UID, netnsPath }) });
      const spec = of.spec({ memoryMib: 64, nic: { tapFd: -1, tapName: 'tap-a', mac: MAC } });
      const vm = await of.boot(spec);
      expect(await ask(vm, 'INFO mac')).toBe(MAC.replaceAll(':', ''));
      useTap(space, 'tap-a');
      expect(space.run('python3', '-c', PING).trim()).toBe('pong');
      expect(Number(await ask(vm, 'INFO frames'))).toBeGreaterThan(0);

      const paths = { statePath: join(spec.dir, 'state'), memoryPath: join(spec.dir, 'memory') };
      const snapshot = await vm.saveWhole?.(paths);
      if (snapshot === undefined) throw new Error('no snapshot');
      space.run('ip', 'link', 'set', 'tap-a', 'down');
      const nic = { tapFd: -1, tapName: 'tap-b', mac: MAC };
      const own = of.spec({ memoryMib: 64, snapshot, nic });
      const hello = await of.listen(own.channelPath, HELLO_PORT);
      await of.start(own);
      expect((await readAll(await hello.accept())).toString()).toBe('ready\n');
      useTap(space, 'tap-b');
      expect(space.run('python3', '-c', PING).trim()).toBe('pong');

      // A TAP that is missing, or in use.
      for (const tapName of ['tap-none', 'tap-b']) {
        const failure = of.start(of.spec({ nic: { ...nic, tapName } }));
        await expect(failure).rejects.toMatchObject({
          code: 'vmm_command_failed',
          endpoint: 'PUT /network-interfaces/eth0',
          status: 400,
        });
      }
      expect(readdirSync(join(baseDir, 'firecracker'))).toHaveLength(2);
    } finally {
      await bench?.close();
      await space.kill();
      rmSync(baseDir, { recursive: true, force: true });
    }
  });

  function useTap(space: NamespacedProcess, tap: string): void {
    space.run('ip', 'address', 'add', '172.31.77.1/24', 'dev', tap);
    space.run('ip', 'link', 'set', tap, 'up');
  }

  it('start: reports an invalid kernel, and nothing is left behind', async () => {
    const of = await makeBench();
    for (const content of ['', 'not an ELF file', '\x7fELF\x02\x01\x01']) {
      const spec = of.spec();
      const kernelPath = join(spec.dir, 'kernel');
      writeFileSync(kernelPath, content);
      await expect(of.start({ ...spec, kernelPath })).rejects.toMatchObject({
        code: 'vmm_command_failed',
        endpoint: 'PUT /actions',
        status: 400,
        fault: expect.stringMatching(/kernel/i),
      });
      expect(readdirSync(spec.dir).sort()).toEqual(['kernel', 'overlay']);
    }
  });

  it('exited: a VMM killed from outside, or by a signal it handles, has crashed', async () => {
    const of = await makeBench();
    for (const signal of ['SIGKILL', 'SIGTERM', 'SIGHUP'] as const) {
      const vm = await of.boot();
      process.kill(Number(vm.pid), signal);
      expect(await vm.exited).toMatchObject({ cause: 'vmm-crashed' });
      expect(existsSync(vm.channelPath)).toBe(false);
      expect(readdirSync(join(vm.channelPath, '..'))).not.toContain('fc');
      await expect(vm.pause()).rejects.toMatchObject({ code: 'vm_gone' });
    }
  });

  it('kill: ends a VMM that is stopped', async () => {
    const vm = await (await makeBench()).boot();
    (await openCommand(vm, 'SPIN')).resume();
    await vm.pause();
    await vm.resume();
    expect(vm.isAlive()).toBe(true);
    process.kill(Number(vm.pid), 'SIGSTOP');
    await expect.poll(() => vm.isAlive(), PATIENT).toBe(false);
    await vm.kill();
    expect(await vm.exited).toMatchObject({ cause: 'killed', signal: 'SIGKILL' });
  });

  it('consoleTail: keeps the last lines of a guest that panics', async () => {
    const vm = await (await makeBench()).boot();
    (await openCommand(vm, 'PANIC')).resume();
    expect(await vm.exited).toMatchObject({ cause: 'guest-shutdown', exitCode: 0, detail: 'reset' });
    expect(vm.consoleTail()).toContain('Kernel panic - not syncing');
  });
});

const READS = 8;
const ROUNDS_MAX = 50;

/** Whether reads of the guest are throttled now. */
async function isThrottled(vm: Vm): Promise<boolean> {
  if (!(vm instanceof FirecrackerVm)) throw new Error('another VM');
  const throttled = async (): Promise<number> => (await vm.counters()).sum('block', 'rate_limiter_throttled_events');
  const before = await throttled();
  for (let n = 0; n < READS; n += 1) expect(await ask(vm, 'INFO disk0')).toBe('golden');
  return (await throttled()) > before;
}

/** On a busy machine its guest may read no faster than its limit. */
async function isOnceThrottled(vm: Vm): Promise<boolean> {
  for (let n = 0; n < ROUNDS_MAX; n += 1) if (await isThrottled(vm)) return true;
  return false;
}
