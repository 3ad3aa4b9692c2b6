/** System calls of processes, counted by the kernel: a known workload gives the exact number. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openSyscallCounts, type SyscallCounts } from '../../src/machine/observe/syscalls.ts';

const [READ, GETPPID] = [0, 110];

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-syscalls-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const children: ChildProcess[] = [];
let counts: SyscallCounts | undefined;
afterEach(() => {
  counts?.[Symbol.dispose]();
  counts = undefined;
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

/** Python that waits for stdin, runs the workload, reports the end, and waits again. */
function python(code: string): { pid: number; work(): Promise<void>; end(): Promise<void> } {
  const script = `import os, sys, threading\nos.read(0, 1)\n${code}\nos.write(1, b'.')\nos.read(0, 1)\n`;
  const child = spawn('/usr/bin/python3', ['-ISc', script], { stdio: ['pipe', 'pipe', 'inherit'] });
  children.push(child);
  const said = once(child.stdout, 'data');
  const ended = once(child, 'exit');
  return {
    pid: child.pid ?? 0,
    work: async () => {
      child.stdin.write('\n');
      await said;
    },
    end: async () => {
      child.stdin.write('\n');
      await ended;
    },
  };
}

describe('SyscallCounts', () => {
  it('counts each call of a process and its threads, and of no other process', async () => {
    counts = await openSyscallCounts({ dir });
    const one = python(
      [
        'def calls():',
        '  for _ in range(1000): os.getppid()',
        't = [threading.Thread(target=calls) for _ in range(4)]',
        '[each.start() for each in t]; [each.join() for each in t]',
        'for _ in range(500): os.read(os.open("/dev/null", os.O_RDONLY), 1)',
      ].join('\n'),
    );
    const other = python('for _ in range(10): os.getppid()');
    const stranger = python('for _ in range(77): os.getppid()');
    counts.watch(one.pid);
    counts.watch(other.pid);
    await Promise.all([one.work(), other.work(), stranger.work()]);
    expect(counts.counts(one.pid)?.get(GETPPID)).toBe(4000);
    expect(counts.counts(other.pid)?.get(GETPPID)).toBe(10);
    expect(counts.counts(stranger.pid)).toBeUndefined();
    // Python's own reads at its start are unknown.
    expect(counts.counts(one.pid)?.get(READ)).toBeGreaterThanOrEqual(500);
    expect(counts.counts(one.pid)?.has(null)).toBe(false);
    // The count stays the same, however often it is read.
    expect(counts.counts(one.pid)?.get(GETPPID)).toBe(4000);
    counts.watch(one.pid);
    expect(counts.counts(one.pid)?.get(GETPPID)).toBe(4000);
    await Promise.all([one.end(), other.end(), stranger.end()]);
    expect(counts.counts(one.pid)?.get(GETPPID)).toBe(4000);
    counts.forget(one.pid);
    counts.forget(one.pid);
    expect(counts.counts(one.pid)).toBeUndefined();
  });

  it('counts only calls after the start of its watch', async () => {
    const early = python('for _ in range(100): os.getppid()');
    await early.work();
    counts = await openSyscallCounts({ dir });
    counts.watch(early.pid);
    expect(counts.counts(early.pid)?.get(GETPPID)).toBeUndefined();
    await early.end();
    counts[Symbol.dispose]();
    counts[Symbol.dispose]();
  });
});
