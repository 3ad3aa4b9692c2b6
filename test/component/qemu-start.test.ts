/** The QEMU driver with a QEMU that misbehaves. */
import { spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Clock, sleep, systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import type { AttachVsock } from '../../src/machine/vmm/attach-vsock.ts';
import type { VmmDriver } from '../../src/machine/vmm/driver.ts';
import { type Launch, ofChild } from '../../src/machine/vmm/launch.ts';
import { createQemuDriver } from '../../src/machine/vmm/qemu/driver.ts';
import { expectReleased, held, VmBench } from '../support/driver-parity.ts';
import { muteVsock } from '../support/mute-vsock.ts';

const STUB = join(import.meta.dirname, '../fixtures/stub-qemu.mjs');

let dir: string;
let attached: number;
let detached: number;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-stub-'));
  attached = 0;
  detached = 0;
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const attachVsock = muteVsock((what) => {
  if (what === 'attached') attached += 1;
  else detached += 1;
});

/** A clock whose deadlines of seconds pass in hundredths of them. */
const hasty: Clock = { ...systemClock, after: (ms, run) => systemClock.after(ms / 50, run) };

function stub(mode: string): string {
  const path = join(dir, mode);
  writeFileSync(path, `#!/bin/sh\nexec '${process.execPath}' '${STUB}' ${mode} "$@"\n`);
  chmodSync(path, 0o755);
  return path;
}

function makeDriver(
  mode: string,
  more: { clock?: Clock; attachVsock?: AttachVsock; launch?: Launch } = {},
): Promise<VmmDriver> {
  const common = { accelerator: 'tcg' as const, log: silentLog, clock: systemClock, attachVsock };
  return createQemuDriver({ ...common, binary: stub(mode), ...more });
}

async function withBench<T>(driver: VmmDriver, run: (bench: VmBench) => Promise<T>): Promise<T> {
  const file = join(dir, 'file');
  writeFileSync(file, '');
  const bench = new VmBench(driver, { kernelPath: file, rootImagePath: file });
  try {
    return await run(bench);
  } finally {
    await bench.close();
  }
}

/** Starts a VM, and expects the failure and no leftovers. */
async function failsToStart(driver: VmmDriver, expected: object): Promise<void> {
  await withBench(driver, async (bench) => {
    const spec = bench.spec();
    await sleep(20);
    const before = held();
    await expect(driver.start(spec)).rejects.toMatchObject(expected);
    expect(readdirSync(spec.dir)).toEqual(['overlay']);
    expect(detached).toBe(attached);
    await expectReleased(before);
  });
}

describe('start', () => {
  it('start: quotes a QEMU that exits at once', async () => {
    await failsToStart(await makeDriver('exits'), {
      code: 'vmm_start_failed',
      cause: 'it ended with status 3: stub-qemu: could not load PC BIOS',
    });
  });
  it('start: quotes a QEMU that dies while it starts', async () => {
    await failsToStart(await makeDriver('dies'), {
      code: 'vmm_start_failed',
      cause: 'it got SIGABRT: stub-qemu: assertion failed',
    });
  });
  it.each(['garbage', 'flood'])('start: fails on %s on the control connection', async (mode) => {
    await failsToStart(await makeDriver(mode), { code: 'vmm_command_failed' });
  });
  it('start: times out if QEMU is silent on its control connection', async () => {
    // 15 s in 3/10 s: long enough for the stub to start, which is all it does.
    await failsToStart(await makeDriver('silent', { clock: hasty }), { code: 'vmm_timeout' });
  });
  it('start: times out if a command gets no answer', async () => {
    const clock: Clock = { ...systemClock, after: (ms, run) => systemClock.after(ms / 10, run) };
    await failsToStart(await makeDriver('hangs', { clock }), { code: 'vmm_timeout' });
  });
  it('start: a refused command is reported with the message of QEMU', async () => {
    await failsToStart(await makeDriver('refuses'), {
      code: 'vmm_command_failed',
      message: 'QEMU refused "device_add"',
      cause: 'Failed to read vhost-user protocol features',
    });
  });
  it('start: fails if its vsock device cannot be made', async () => {
    const failing: AttachVsock = () => Promise.reject(new Error('address in use'));
    await failsToStart(await makeDriver('chatty', { attachVsock: failing }), {
      code: 'vmm_start_failed',
      cause: expect.objectContaining({ message: 'address in use' }),
    });
  });
  it('start: names a launcher that is not installed', async () => {
    const launch: Launch = async ({ stdio }) => ofChild(spawn(join(dir, 'no-jail'), [], { stdio: [...stdio] }));
    await failsToStart(await makeDriver('chatty', { launch }), { code: 'vmm_missing' });
  });
  it('start: cleans up if cancelled while QEMU hangs', async () => {
    const driver = await makeDriver('silent');
    await withBench(driver, async (bench) => {
      const spec = bench.spec();
      const before = held();
      const aborter = new AbortController();
      setTimeout(() => aborter.abort(new Error('Ctrl-C')), 100);
      await expect(driver.start(spec, aborter.signal)).rejects.toMatchObject({
        code: 'vm_cancelled',
        cause: expect.objectContaining({ message: 'Ctrl-C' }),
      });
      expect(detached).toBe(1);
      expect(readdirSync(spec.dir)).toEqual(['overlay']);
      await expectReleased(before);
    });
  });
  it('exited: has only the last lines of stderr', async () => {
    const driver = await makeDriver('chatty');
    await withBench(driver, async (bench) => {
      const vm = await driver.start(bench.spec());
      await sleep(100);
      await vm.kill();
      const { detail } = await vm.exited;
      expect(detail.length).toBeLessThanOrEqual(4 * 1024);
      expect(detail).toMatch(/warning 1999$/);
    });
  });
});

describe('launch', () => {
  it('launch: QEMU dies with its parent, even on SIGKILL', async () => {
    const args = [join(import.meta.dirname, '../fixtures/hold-vm.ts'), stub('chatty'), dir];
    const parent = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    const pid = Number(await new Promise((resolve) => parent.stdout.once('data', resolve)));
    expect(pid).toBeGreaterThan(1);
    expect(existsSync(`/proc/${pid}`)).toBe(true);
    parent.kill('SIGKILL');
    await expect.poll(() => existsSync(`/proc/${pid}`)).toBe(false);
  });
  it('launch: QEMU gets no environment and no new privileges', async () => {
    process.env['NEUROVISOR_UPSTREAM_KEY'] = 'secret';
    try {
      const driver = await makeDriver('chatty');
      await withBench(driver, async (bench) => {
        const vm = await driver.start(bench.spec());
        const environment = readFileSync(`/proc/${vm.pid}/environ`, 'utf8');
        expect(environment).toMatch(/^PATH=/);
        expect(environment).not.toContain('NEUROVISOR');
        expect(readFileSync(`/proc/${vm.pid}/status`, 'utf8')).toMatch(/NoNewPrivs:\s1/);
        await vm.kill();
      });
    } finally {
      delete process.env['NEUROVISOR_UPSTREAM_KEY'];
    }
  });
});

describe('createQemuDriver', () => {
  const options = { accelerator: 'tcg' as const, attachVsock, clock: systemClock, log: silentLog };
  it('createQemuDriver: refuses a missing or old binary with a remedy', async () => {
    for (const binary of [join(dir, 'none'), stub('old'), '/bin/true']) {
      const failure = createQemuDriver({ ...options, binary });
      await expect(failure).rejects.toMatchObject({ code: 'vmm_missing', remedy: expect.stringContaining('install') });
    }
  });
  it('createQemuDriver: describes itself', async () => {
    const driver = await makeDriver('chatty');
    expect(driver.description).toBe('QEMU 7.2.22 (software emulation)');
  });
});
