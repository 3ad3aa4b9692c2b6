/** The driver with a scripted Firecracker that hangs, lies or dies, and with versions that are not available. */
import { spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Clock, systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import type { Vm, VmmDriver, VmSpec } from '../../src/machine/vmm/driver.ts';
import { createFirecrackerDriver, type FirecrackerDriverOptions } from '../../src/machine/vmm/firecracker/driver.ts';
import type { SpawnVmm } from '../../src/machine/vmm/firecracker/process/spawn.ts';
import type { FirecrackerVm } from '../../src/machine/vmm/firecracker/vm.ts';
import { held, VmBench } from '../support/driver-parity.ts';

const STUB = join(import.meta.dirname, '../fixtures/stub-firecracker.mjs');

let dir: string;
let bench: VmBench;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-stub-'));
});
afterEach(async () => {
  await bench?.close();
  rmSync(dir, { recursive: true, force: true });
});

/**
 * A clock whose deadlines of seconds expire as soon as this call, which gets no answer, has arrived; `text` is in its
 * body.
 */
function lapsingAt(call: string, text = ''): Clock {
  const hasCome = (): boolean => {
    const [last, body] = asked().at(-1) ?? [];
    return last === call && JSON.stringify(body).includes(text);
  };
  const after: Clock['after'] = (ms, run) => {
    if (ms < 1_000) return systemClock.after(ms, run);
    let cancel = (): void => undefined;
    const look = (): void => {
      if (hasCome()) run();
      else cancel = systemClock.after(10, look);
    };
    cancel = systemClock.after(10, look);
    return () => cancel();
  };
  return { ...systemClock, after };
}

const PATIENT = { timeout: 120_000 };

async function makeDriver(
  mode: string,
  version = '1.16.1',
  more: Partial<FirecrackerDriverOptions> = {},
): Promise<VmmDriver> {
  const binary = stub(mode, version);
  const common = { clock: systemClock, log: silentLog, ...more };
  const driver = await createFirecrackerDriver({ binary, ...common });
  const file = join(dir, 'file');
  writeFileSync(file, '');
  await bench?.close();
  bench = new VmBench(driver, { kernelPath: file, rootImagePath: file });
  return driver;
}

function stub(mode: string, version: string): string {
  const path = join(dir, 'firecracker');
  const words = [process.execPath, STUB, version, mode, join(dir, 'record')];
  writeFileSync(path, `#!/bin/sh\nexec ${words.map((word) => `'${word}'`).join(' ')} "$@"\n`);
  chmodSync(path, 0o755);
  return path;
}

/** The requests that Firecracker received, without the wait for its API. */
function asked(): [string, Record<string, unknown> | null][] {
  const path = join(dir, 'record');
  // The text after the last line end is still being written.
  const lines = existsSync(path) ? readFileSync(path, 'utf8').split('\n').slice(0, -1) : [];
  return lines.map((line) => JSON.parse(line)).filter(([call]) => call !== 'GET /');
}

const names = (): string[] => asked().map(([call]) => call);

async function failsToStart(driver: VmmDriver, expected: object): Promise<void> {
  const spec = bench.spec();
  const before = held();
  await expect(driver.start(spec)).rejects.toMatchObject(expected);
  expect(readdirSync(spec.dir)).toEqual(['overlay']);
  await driver.close?.();
  await expect.poll(held, PATIENT).toEqual(before);
}

describe('start', () => {
  it('start: quotes a Firecracker that exits at once', async () => {
    await failsToStart(await makeDriver('exits'), {
      code: 'vmm_start_failed',
      cause: 'it ended with status 153: stub-firecracker: no such machine',
    });
  });
  it('start: times out if Firecracker never listens', async () => {
    const clock: Clock = { ...systemClock, now: () => systemClock.now() * 20 };
    await failsToStart(await makeDriver('deaf', '1.16.1', { clock }), { code: 'vmm_timeout' });
  });
  it('start: waits for a socket file that has no listener yet', async () => {
    await makeDriver('late');
    const vm = await bench.start(bench.spec());
    expect(vm.isAlive()).toBe(true);
  });
  it.each([
    ['hang', { code: 'vmm_timeout', endpoint: 'PUT /vsock', status: null, fault: null }],
    ['half', { code: 'vmm_command_failed', endpoint: 'PUT /vsock', status: null }],
    ['dies', { code: 'vmm_start_failed', cause: 'it ended with status 1' }],
    ['refuse', { status: 400, fault: 'Resource busy (os error 16) .', endpoint: 'PUT /vsock' }],
    ['verb', { status: 400, fault: expect.stringContaining('Invalid HTTP Method. All previous') }],
    ['error', { code: 'vmm_command_failed', status: 500, fault: 'panicked' }],
    ['garbage', { code: 'vmm_command_failed', status: null }],
    ['lie', { code: 'vmm_command_failed', status: 200 }],
    ['binary', { code: 'vmm_command_failed' }],
    ['flood', { code: 'vmm_command_failed', status: null }],
  ])('start: fails on %s in the middle of it', async (what, expected) => {
    const clock = what === 'hang' ? lapsingAt('PUT /vsock') : systemClock;
    await failsToStart(await makeDriver(`${what}@PUT /vsock`, '1.16.1', { clock }), expected);
  });
  it('start: names a launcher that is not installed, and cleans up if one throws', async () => {
    const absent: SpawnVmm = (_argv, stdio) => spawn(join(dir, 'none'), [], { stdio: [...stdio] });
    await failsToStart(await makeDriver('good', '1.16.1', { spawn: absent }), { code: 'vmm_missing' });
    const throwing: SpawnVmm = () => {
      throw new Error('no more processes');
    };
    const driver = await makeDriver('good', '1.16.1', { spawn: throwing });
    await failsToStart(driver, { code: 'vmm_start_failed' });
    const spec = bench.spec({ console: 'interactive' });
    const before = held();
    await expect(driver.start(spec)).rejects.toMatchObject({ code: 'vmm_start_failed' });
    await driver.close?.();
    await expect.poll(held, PATIENT).toEqual(before);
  });
  it('start: cleans up if cancelled while Firecracker hangs', async () => {
    const driver = await makeDriver('hang@PUT /actions');
    const spec = bench.spec();
    const before = held();
    const aborter = new AbortController();
    const started = driver.start(spec, aborter.signal);
    await expect.poll(() => names().at(-1), PATIENT).toBe('PUT /actions');
    aborter.abort(new Error('Ctrl-C'));
    await expect(started).rejects.toMatchObject({ code: 'vm_cancelled' });
    expect(readdirSync(spec.dir)).toEqual(['overlay']);
    await driver.close?.();
    await expect.poll(held, PATIENT).toEqual(before);
  });
  it('start: removes the socket of a dead VM, and no other file', async () => {
    const driver = await makeDriver('good');
    const spec = bench.spec();
    const stale = createServer().listen(spec.channelPath);
    await expect.poll(() => stale.listening, PATIENT).toBe(true);
    // Leaves the file, as a killed process does.
    writeFileSync(join(spec.dir, 'keep'), '');
    const vm = await bench.start(spec);
    await vm.kill();
    stale.close();
    const other = bench.spec();
    writeFileSync(other.channelPath, 'a file of somebody');
    await expect(driver.start(other)).rejects.toMatchObject({ code: expect.any(String) });
    expect(readFileSync(other.channelPath, 'utf8')).toBe('a file of somebody');
  });
  it('balloon: an answer without a size is an error', async () => {
    await makeDriver('good');
    const vm = await bench.start(bench.spec({ memoryMib: 128, balloonMib: 16 }));
    await expect(vm.balloon?.memoryMib()).rejects.toMatchObject({ code: 'vmm_command_failed' });
    await vm.balloon?.setMemory(100.5);
    expect(asked().at(-1)).toEqual(['PATCH /balloon', { amount_mib: 28 }]);
  });
  it('start: configures a machine in order, and never PCI or metadata', async () => {
    await makeDriver('good', '1.16.1', {
      limits: {
        disk: { bandwidth: { size: 1000, refillPerSecond: 500, oneTimeBurst: 7 } },
        nicToGuest: { ops: { size: 10, refillPerSecond: 1000 } },
      },
    });
    const nic = { tapFd: -1, tapName: 'lo', mac: 'aa:fc:00:00:00:01' };
    await bench.start(bench.spec({ nic, bootArgs: ['loglevel=7'], memoryMib: 128, balloonMib: 16, guestCid: 9 }));
    const limit = { bandwidth: { size: 1000, refill_time: 2000, one_time_burst: 7 } };
    expect(asked()).toEqual([
      ['PUT /machine-config', { vcpu_count: 1, mem_size_mib: 128, smt: false, track_dirty_pages: false }],
      [
        'PUT /boot-source',
        {
          kernel_image_path: 'fc/kernel',
          boot_args: 'console=ttyS0 quiet reboot=k panic=1 rootfstype=erofs init=/sbin/neurovisor-init loglevel=7',
        },
      ],
      [
        'PUT /drives/root',
        { drive_id: 'root', path_on_host: 'fc/root', is_root_device: true, is_read_only: true, rate_limiter: limit },
      ],
      [
        'PUT /drives/overlay',
        {
          drive_id: 'overlay',
          path_on_host: 'fc/overlay',
          is_root_device: false,
          is_read_only: false,
          rate_limiter: limit,
        },
      ],
      ['PUT /vsock', { guest_cid: 9, uds_path: 'c' }],
      ['PUT /entropy', {}],
      ['PUT /balloon', { amount_mib: 16, deflate_on_oom: false, stats_polling_interval_s: 65_535 }],
      [
        'PUT /network-interfaces/eth0',
        {
          iface_id: 'eth0',
          host_dev_name: 'lo',
          guest_mac: nic.mac,
          rx_rate_limiter: { ops: { size: 10, refill_time: 10 } },
        },
      ],
      ['PUT /actions', { action_type: 'InstanceStart' }],
    ]);
  });
  it.each([
    { tapName: 'tap 0' },
    { tapName: '../x' },
    { tapName: 'tap%d' },
    { tapName: 'sixteen-letters-x' },
    { tapName: '' },
    { tapName: 'tap0\n' },
    { tapName: 'not-there' },
  ])('start: refuses an invalid TAP ($tapName)', async ({ tapName }) => {
    const driver = await makeDriver('good');
    const nic = { tapFd: -1, tapName, mac: 'aa:fc:00:00:00:01' };
    const failure = driver.start(bench.spec({ nic }));
    await expect(failure).rejects.toMatchObject({ code: 'vm_spec_invalid' });
  });
  it('start: refuses settings that Firecracker does not support', async () => {
    const driver = await makeDriver('good');
    const plain = bench.spec();
    const elsewhere = bench.spec();
    const bad: Partial<VmSpec>[] = [{ nic: { tapFd: 99, mac: 'aa:fc:00:00:00:01' } }];
    for (const more of bad) {
      const failure = driver.start({ ...plain, ...more });
      await expect(failure).rejects.toMatchObject({ code: 'vm_unsupported' });
    }
    const { channelPath } = elsewhere;
    const names = ['', 'c', 'fc', 'dev', '.', '..', 'a b', '-v'].map((name) => `${plain.dir}/${name}`);
    for (const wrong of [channelPath, ...names]) {
      const failure = driver.start({ ...plain, channelPath: wrong });
      await expect(failure).rejects.toMatchObject({ code: 'vm_spec_invalid' });
    }
    expect(readdirSync(plain.dir)).toEqual(['overlay']);
  });
});

describe('a running VM', () => {
  const running = async (mode: string, version?: string, clock?: Clock): Promise<Vm> => {
    await makeDriver(mode, version, clock === undefined ? {} : { clock });
    return bench.start(bench.spec({ memoryMib: 64 }));
  };
  it.each([
    ['hang', 'vmm_timeout'],
    ['half', 'vmm_command_failed'],
    ['refuse', 'vmm_command_failed'],
    ['error', 'vmm_command_failed'],
    ['garbage', 'vmm_command_failed'],
  ])('pause: %s is a typed error, and the VM can be ended', async (what, code) => {
    const vm = await running(`${what}@PATCH /vm`, '1.16.1', what === 'hang' ? lapsingAt('PATCH /vm') : systemClock);
    await expect(vm.pause()).rejects.toMatchObject({ code, endpoint: 'PATCH /vm' });
    expect(vm.isAlive()).toBe(true);
    await vm.kill();
    expect(await vm.exited).toMatchObject({ cause: 'killed', signal: 'SIGKILL' });
  });
  it('pause: a VM that dies meanwhile is gone', async () => {
    const vm = await running('dies@PATCH /vm');
    await expect(vm.pause()).rejects.toMatchObject({ code: 'vm_gone' });
    expect(await vm.exited).toMatchObject({ cause: 'vmm-crashed', exitCode: 1 });
    await expect(vm.pause()).rejects.toMatchObject({ code: 'vm_gone' });
  });
  it('exited: reports status 0 between two calls', async () => {
    const vm = await running('dies-after@PATCH /vm');
    await vm.pause();
    await vm.exited;
    await expect(vm.resume()).rejects.toMatchObject({ code: 'vm_gone' });
  });
  it('counters: adds up the requested ones', async () => {
    const vm = (await running('good')) as FirecrackerVm;
    expect((await vm.counters()).sum('vsock', 'tx_bytes_count')).toBe(20);
    expect((await vm.counters()).sum('vsock', 'tx_bytes_count')).toBe(40);
  });
  it('counters: missing counters', async () => {
    const clock = lapsingAt('PUT /actions', 'FlushMetrics');
    const vm = (await running('quiet', '1.16.1', clock)) as FirecrackerVm;
    await expect(vm.counters()).rejects.toMatchObject({ code: 'vmm_timeout' });
  });
});

describe('versions', () => {
  const pausedAndResumed = async (version: string, mode = 'good'): Promise<string[]> => {
    await makeDriver(mode, version);
    const vm = await bench.start(bench.spec({ memoryMib: 64 }));
    const before = names().length;
    await vm.pause();
    await vm.resume();
    await vm.resume();
    expect(readdirSync(join(vm.channelPath, '../fc')).sort()).toEqual(AT_REST);
    return names().slice(before);
  };
  const AT_REST = ['kernel', 'log', 'metrics', 'overlay', 'root', 's'];

  it.each(['1.16.1', '1.16.7'])('resume: %s takes a snapshot in each pause', async (v) => {
    expect(await pausedAndResumed(v)).toEqual(['PATCH /vm', 'PUT /snapshot/create', 'PATCH /vm', 'PATCH /vm']);
    const [, body] = asked().find(([call]) => call === 'PUT /snapshot/create') ?? [];
    expect(body).toMatchObject({ snapshot_type: 'Diff' });
  });
  it('resume: even a refused snapshot revives the vsock device of 1.16', async () => {
    const calls = await pausedAndResumed('1.16.1', 'refuse@PUT /snapshot/create');
    expect(calls).toEqual(['PATCH /vm', 'PUT /snapshot/create', 'PATCH /vm', 'PATCH /vm']);
  });
  it('resume: 1.17 needs no snapshot', async () => {
    expect(await pausedAndResumed('1.17.0')).toEqual(['PATCH /vm', 'PATCH /vm', 'PATCH /vm']);
  });
  it('resume: takes no extra snapshot after a requested one', async () => {
    await makeDriver('good', '1.16.1', { tracksDirtyPages: true });
    const spec = bench.spec({ memoryMib: 64 });
    const vm = await bench.start(spec);
    await vm.saveWhole?.({ statePath: join(spec.dir, 's'), memoryPath: join(spec.dir, 'm') });
    await vm.resume();
    expect(names().filter((call) => call === 'PUT /snapshot/create')).toHaveLength(1);
  });
  it('start: a clone gets a socket and a network card of its own', async () => {
    await makeDriver('good');
    const nic = { tapFd: -1, tapName: 'lo', mac: 'aa:fc:00:00:00:01' };
    const spec = bench.spec({ memoryMib: 64, nic });
    const vm = await bench.start(spec);
    const paths = { statePath: join(spec.dir, 's'), memoryPath: join(spec.dir, 'm') };
    const snapshot = await vm.saveWhole?.(paths);
    if (snapshot === undefined) throw new Error('no snapshot');
    await bench.start(bench.spec({ memoryMib: 64, snapshot, nic }));
    const [call, body] = asked().at(-1) ?? [];
    expect(call).toBe('PUT /snapshot/load');
    expect(body).toMatchObject({
      snapshot_path: 'fc/state',
      resume_vm: true,
      track_dirty_pages: false,
      vsock_override: { uds_path: 'c' },
      mem_backend: { backend_type: 'File', backend_path: 'fc/memory' },
      network_overrides: [{ iface_id: 'eth0', host_dev_name: 'lo' }],
    });
  });
  it.each([
    ['1.16.0', 'is older than 1.16.1'],
    ['1.15.0', 'is older than 1.16.1'],
    ['2.0.0', 'only 1.x is'],
    ['one', 'has no version'],
  ])('createFirecrackerDriver: refuses %s with a remedy', async (version, reason) => {
    await expect(makeDriver('good', version)).rejects.toMatchObject({
      code: 'vmm_missing',
      cause: expect.stringContaining(reason),
      remedy: expect.stringContaining('1.16.1'),
    });
  });
  it('createFirecrackerDriver: refuses a binary that is missing', async () => {
    const common = { clock: systemClock, log: silentLog };
    const driver = createFirecrackerDriver({ binary: join(dir, 'none'), ...common });
    await expect(driver).rejects.toMatchObject({ cause: 'it is not installed' });
  });
});
