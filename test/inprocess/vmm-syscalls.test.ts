/** Syscalls of VMMs in metrics and per VMM; the kernel's part is in observe-syscalls.test.ts. */
import { describe, expect, it } from 'vitest';
import { silentLog } from '../../src/base/log.ts';
import { VmmSyscalls, type VmmSyscallsParts } from '../../src/host/probes/vmm-syscalls.ts';
import type { CallCounts } from '../../src/machine/observe/syscalls.ts';

const NAMES: Readonly<Record<number, string>> = { 0: 'read', 1: 'write', 271: 'ppoll' };

/** Counts of system calls per process, as the kernel keeps them. */
class FakeCounts {
  readonly calls = new Map<number, Map<number | null, number>>();
  isClosed = false;

  watch(pid: number): void {
    if (!this.calls.has(pid)) this.calls.set(pid, new Map());
  }
  counts(pid: number): CallCounts | undefined {
    const calls = this.calls.get(pid);
    return calls === undefined ? undefined : new Map(calls);
  }
  forget(pid: number): void {
    this.calls.delete(pid);
  }
  call(pid: number, number: number | null, times: number): void {
    const calls = this.calls.get(pid);
    calls?.set(number, (calls.get(number) ?? 0) + times);
  }
  [Symbol.dispose](): void {
    this.isClosed = true;
  }
}

function make(more: Partial<VmmSyscallsParts> = {}) {
  const counts = new FakeCounts();
  const nameOf = (number: number): string | undefined => NAMES[number];
  const vmms = new VmmSyscalls({ open: async () => counts, nameOf, log: silentLog, ...more });
  const total = (call: string): number | undefined =>
    vmms
      .metrics()[0]
      ?.samples()
      .find(({ labels }) => labels['call'] === call)?.value;
  return { counts, vmms, total };
}

describe('VmmSyscalls', () => {
  it('adds the calls since the last read, across ended VMMs and reused process IDs', async () => {
    const { counts, vmms, total } = make();
    vmms.watch(7);
    await vmms.start();
    counts.call(7, 0, 3);
    expect(total('read')).toBe(3);
    counts.call(7, 0, 2);
    counts.call(7, 271, 9);
    counts.call(7, null, 1);
    counts.call(7, 500, 1);
    expect([total('read'), total('ppoll'), total('unknown')]).toEqual([5, 9, 2]);
    expect(Object.entries(vmms.of(7) ?? {})).toEqual([
      ['ppoll', 9],
      ['read', 5],
      ['unknown', 2],
    ]);
    counts.call(7, 0, 10);
    vmms.end(7);
    expect(counts.calls.size).toBe(0);
    expect(vmms.of(7)).toBeUndefined();
    vmms.watch(7);
    counts.call(7, 0, 1);
    expect(total('read')).toBe(16);
    vmms.close();
    expect(counts.isClosed).toBe(true);
    expect(total('read')).toBe(16);
  });

  it('off or unavailable: nothing is counted; if unavailable, a warning has the reason', async () => {
    const off = make({ open: null });
    off.vmms.watch(7);
    await off.vmms.start();
    off.vmms.end(7);
    expect([off.vmms.isOpen, off.vmms.of(7), off.total('unknown')]).toEqual([false, undefined, 0]);
    const told: unknown[] = [];
    const log = { ...silentLog, warn: (...all: unknown[]) => void told.push(all) };
    const none = make({ log, open: () => Promise.reject(new Error('not today')) });
    none.vmms.watch(7);
    await none.vmms.start();
    none.vmms.end(7);
    expect(told).toEqual([['system calls of VMMs are not counted', { reason: 'not today' }]]);
  });
});
