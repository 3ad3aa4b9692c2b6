import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { type Log, silentLog } from '../../base/log.ts';
import { MetricRegistry } from '../../base/metrics.ts';
import type { VmExit } from '../../machine/vmm/driver.ts';
import { SyscallError } from '../../sys/libc.ts';
import { type RecordSource, VmmViolations } from './vmm-violations.ts';

const [EIO, ENOBUFS] = [5, 105];
const KILLED: VmExit = { cause: 'vmm-crashed', exitCode: null, signal: 'SIGSYS', detail: '' };

/** @param at seconds since 1970 */
function record(pid: number, syscall: number, code: string, arch = 'c000003e', at = '99999999999.000'): Uint8Array {
  const text =
    `audit(${at}:3): auid=1 uid=0 gid=0 ses=1 pid=${pid} comm="q" exe="/q" sig=31 arch=${arch} ` +
    `syscall=${syscall} compat=0 ip=0x7f code=${code}`;
  const bytes = Buffer.alloc(16 + text.length);
  bytes.writeUInt16LE(1326, 4);
  bytes.write(text, 16);
  return bytes;
}

function world(hasSource = true) {
  const clock = new FakeClock();
  const queued: (Uint8Array | 'lost' | 'broken')[] = [];
  const warned: string[] = [];
  const log: Log = {
    ...silentLog,
    warn: (message, fields) => void warned.push(`${message} ${JSON.stringify(fields)}`),
  };
  const source: RecordSource = {
    receive() {
      const next = queued.shift();
      if (next === 'lost') throw new SyscallError('recv netlink', ENOBUFS);
      if (next === 'broken') throw new SyscallError('recv netlink', EIO);
      return next;
    },
    close: () => undefined,
  };
  const violations = new VmmViolations({ clock, log, vmm: 'qemu', source: hasSource ? source : null });
  const registry = new MetricRegistry();
  registry.add(...violations.metrics);
  const count = async (mode: string): Promise<number> => {
    const line = new RegExp(`violations_total\\{vmm="qemu",mode="${mode}"\\} (\\d+)`);
    return Number(line.exec(await registry.text())?.[1]);
  };
  return { clock, queued, warned, violations, registry, count };
}

describe('VmmViolations', () => {
  it('watch: logged calls of a running VMM are counted, and the first one is in the log', async () => {
    const { clock, queued, warned, violations, count } = world();
    expect(await count('log')).toBe(0);
    const watch = violations.watch(7);
    queued.push(record(7, 59, '0x7ffc0000'), record(8, 59, '0x7ffc0000'));
    queued.push(record(7, 272, '0x7ffc0000'));
    clock.advance(500);
    expect(await count('log')).toBe(2);
    expect(await count('enforce')).toBe(0);
    expect(warned).toEqual(['a VMM made a system call that its seccomp filter logged {"vmmPid":7,"syscall":"execve"}']);
    expect(await watch.settle(undefined)).toEqual({
      count: 2,
      syscall: 272,
      name: 'unshare',
      address: '0x7f',
      action: 'logged',
      atMs: clock.wall(),
    });
    // The VMM has ended: from now on its pid belongs to another process.
    queued.push(record(7, 59, '0x7ffc0000'));
    clock.advance(60_000);
    expect(await count('log')).toBe(2);
  });

  it('settle: after SIGSYS waits for the late record', async () => {
    const { clock, queued, violations, count } = world();
    const settled = violations.watch(7).settle(KILLED);
    clock.advance(20);
    await Promise.resolve();
    queued.push(record(7, 101, '0x80000000'));
    const mark = pump(clock, settled);
    expect(await mark).toMatchObject({ count: 1, name: 'ptrace', action: 'refused' });
    expect(await count('enforce')).toBe(1);
  });

  it('watch: an old record of an earlier process with the same pid does not count', async () => {
    const { clock, queued, violations, count } = world();
    const at = (wallMs: number): string => (wallMs / 1000).toFixed(3);
    violations.watch(1);
    clock.advance(120_000);
    const old = at(clock.wall() - 90_000);
    queued.push(record(7, 101, '0x80000000', undefined, old));
    clock.advance(500);
    // Records that have not been read yet do not count either.
    queued.push(record(7, 59, '0x80000000', undefined, old));
    queued.push(record(7, 272, '0x80000000', undefined, at(clock.wall() - 1_000)));
    const watch = violations.watch(7);
    expect(await watch.settle(undefined)).toMatchObject({ count: 1, name: 'unshare' });
    expect(await count('enforce')).toBe(1);
  });

  it('watch: a failed read counts as lost and does not throw', async () => {
    const { clock, queued, violations, registry } = world();
    violations.watch(7);
    queued.push('broken', record(7, 59, '0x7ffc0000'));
    clock.advance(500);
    clock.advance(500);
    expect(await registry.text()).toMatch(/records_lost_total 1\n/);
    expect(await registry.text()).toMatch(/mode="log"\} 1\n/);
  });

  it('watch: a record from before the VMM was registered counts', async () => {
    const { clock, queued, violations, count } = world();
    violations.watch(1);
    queued.push(record(7, 101, '0x80000000'));
    clock.advance(500);
    expect(await count('enforce')).toBe(0);
    expect(await violations.watch(7).settle(KILLED)).toMatchObject({ syscall: 101 });
    expect(await count('enforce')).toBe(1);
  });

  it('settle: without records an exit by SIGSYS counts, without a name', async () => {
    const { clock, violations, count } = world(false);
    expect(await violations.watch(7).settle(KILLED)).toBeNull();
    expect(await count('enforce')).toBe(1);
    const silent = world();
    expect(await pump(silent.clock, silent.violations.watch(7).settle(KILLED))).toBeNull();
    expect(await silent.count('enforce')).toBe(1);
    clock.advance(1);
  });

  it('settle: a call that the VMM reports itself is named and counted once', async () => {
    const { violations, count } = world(false);
    const exit: VmExit = { ...KILLED, exitCode: 148, signal: null, refusedSyscall: 57 };
    const mark = await violations.watch(7).settle(exit);
    expect(mark).toMatchObject({ count: 1, syscall: 57, name: 'fork', address: null });
    expect(await count('enforce')).toBe(1);
  });

  it('settle: another exit is no violation, and does not wait', async () => {
    const { violations, count } = world();
    const exit: VmExit = { ...KILLED, signal: 'SIGKILL' };
    expect(await violations.watch(7).settle(exit)).toBeNull();
    expect(await count('enforce')).toBe(0);
  });

  it('watch: lost records are counted, 32-bit calls have no name, unknown pids are bounded', async () => {
    const { clock, queued, violations, registry } = world();
    const watch = violations.watch(7);
    for (let pid = 100; pid < 1_000; pid += 1) queued.push(record(pid, 59, '0x0'));
    queued.push('lost', record(7, 11, '0x0', '40000003'));
    clock.advance(500);
    expect(await registry.text()).toContain('neurovisor_seccomp_records_lost_total 1\n');
    expect(await watch.settle(undefined)).toMatchObject({ syscall: 11, name: null });
    expect(await violations.watch(999).settle(undefined)).toMatchObject({ syscall: 59 });
    expect(await violations.watch(100).settle(undefined)).toBeNull();
  });
});

/** Advances time until the promise settles. */
async function pump<T>(clock: FakeClock, promise: Promise<T>): Promise<T> {
  let isSettled = false;
  void promise.then(() => {
    isSettled = true;
  });
  while (!isSettled) {
    await new Promise((resolve) => setImmediate(resolve));
    clock.advance(20);
  }
  return await promise;
}
