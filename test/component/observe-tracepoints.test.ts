/** Events of a sandbox's processes from the kernel, here of shells. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { FakeClock } from '../../src/base/clock.ts';
import { newSandboxId, type SandboxId } from '../../src/base/ids.ts';
import type { ProcessEvent } from '../../src/machine/observe/events.ts';
import { countOf } from '../../src/machine/observe/histogram.ts';
import { openTracepoints, type TracepointOptions, type Tracepoints } from '../../src/machine/observe/tracepoints.ts';
import { need } from '../support/requires.ts';
import { makeSmallCgroup } from '../support/small-cgroup.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-observe-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const clock = new FakeClock();
let told: { event: ProcessEvent; sandbox: SandboxId | undefined }[] = [];
let tracepoints: Tracepoints | undefined;
afterEach(() => {
  tracepoints?.[Symbol.dispose]();
  tracepoints = undefined;
  told = [];
});

async function open(more: Partial<TracepointOptions> = {}): Promise<Tracepoints> {
  const onEvent: TracepointOptions['onEvent'] = (event, sandbox) => told.push({ event, sandbox });
  tracepoints = await openTracepoints({ dir, clock, onEvent, ...more });
  return tracepoints;
}

/** A shell that waits for its stdin before it does something. */
function shell(script: string, cgroup?: string): { child: ChildProcess; run(): Promise<void> } {
  const enter = cgroup === undefined ? '' : `echo $$ > ${cgroup}/cgroup.procs; `;
  const child = spawn('sh', ['-c', `${enter}read line; ${script}`], { stdio: ['pipe', 'ignore', 'ignore'] });
  const ended = once(child, 'exit');
  const run = async (): Promise<void> => {
    child.stdin?.end('\n');
    await ended;
  };
  return { child, run };
}

const kinds = (of: SandboxId) => told.filter(({ sandbox }) => sandbox === of).map(({ event }) => event.kind);

describe('Tracepoints', () => {
  it('reports every start and end of a sandbox’s processes, and of no others', async () => {
    const all = await open();
    expect(all.missing).toEqual([]);
    const [first, second] = [newSandboxId(), newSandboxId()];
    const one = shell('for i in 1 2 3 4 5; do /bin/true; done; (exit 3); kill -TERM $$');
    const other = shell('/bin/true; exit 7');
    const stranger = shell('/bin/true');
    expect(all.watch(first, one.child.pid ?? 0)).toBe(true);
    expect(all.watch(second, other.child.pid ?? 0)).toBe(true);
    await Promise.all([one.run(), other.run(), stranger.run()]);
    clock.advance(50);

    // Six children, one of which is a shell that ends without an exec; then the shell itself.
    expect(all.counts(first)).toMatchObject({ execs: 5, exits: 7, oomVictims: 0 });
    expect(kinds(first).filter((kind) => kind === 'exec')).toHaveLength(5);
    const ends = told.flatMap(({ event, sandbox }) =>
      event.kind === 'exit' && sandbox === first ? [[event.exitCode, event.signal]] : [],
    );
    expect(ends).toEqual([...Array.from({ length: 5 }, () => [0, null]), [3, null], [null, 15]]);
    expect(told.find(({ event }) => event.kind === 'exec')?.event).toMatchObject({
      comm: 'true',
      atNs: expect.any(BigInt),
    });
    expect(all.counts(second)).toMatchObject({ execs: 1, exits: 2 });
    expect(told.every(({ sandbox }) => sandbox === first || sandbox === second)).toBe(true);
    expect(all.loss()).toEqual({ events: 0, processes: 0 });
  });

  it('does not report the end of a thread', async () => {
    const all = await open();
    const sandbox = newSandboxId();
    const threads = [
      'import os, threading',
      't = [threading.Thread(target=os.getpid) for _ in range(5)]',
      '[each.start() for each in t]; [each.join() for each in t]',
      'os.execv("/bin/true", ["true"])',
    ];
    const python = shell(`exec /usr/bin/python3 -ISc '${threads.join('\n')}'`);
    all.watch(sandbox, python.child.pid ?? 0);
    await python.run();
    all.poll();
    expect(kinds(sandbox)).toEqual(['exec', 'exec', 'exit']);
    expect(all.counts(sandbox)).toMatchObject({ execs: 2, exits: 1 });
  });

  it('reports the OOM killer’s victim, and the stall before it', async ({ skip }) => {
    using cgroup = need({ skip }, 'cgroup', makeSmallCgroup(24 * 1024 * 1024));
    const all = await open();
    const sandbox = newSandboxId();
    // tail buffers input without a line end.
    const greedy = shell('tail -n 1 /dev/zero', cgroup.dir);
    all.watch(sandbox, greedy.child.pid ?? 0);
    await greedy.run();
    all.poll();

    const victim = told.find(({ event }) => event.kind === 'oom-victim');
    expect(victim).toMatchObject({
      sandbox,
      event: { comm: 'tail', uid: process.getuid?.(), oomScoreAdj: expect.any(Number) },
    });
    if (victim?.event.kind === 'oom-victim') expect(victim.event.anonBytes).toBeGreaterThan(8 * 1024 * 1024);
    const order = kinds(sandbox);
    expect(order.indexOf('reclaim-begin')).toBeGreaterThanOrEqual(0);
    expect(order.indexOf('reclaim-begin')).toBeLessThan(order.indexOf('oom-victim'));
    expect(told).toContainEqual(
      expect.objectContaining({ event: expect.objectContaining({ kind: 'exit', signal: 9 }) }),
    );
    const counts = all.counts(sandbox);
    expect(counts).toMatchObject({ oomVictims: 1 });
    const begun = order.filter((kind) => kind === 'reclaim-end').length;
    const stalls = counts === undefined ? 0 : countOf(counts.stalls);
    expect(stalls).toBe(begun + (counts?.untoldStalls ?? 0));
    expect(stalls).toBeGreaterThan(0);
  });

  it('a full ring loses events but no counts, and counts the loss', async () => {
    const all = await open({ ringBytes: 4096 });
    const sandbox = newSandboxId();
    const many = shell('i=0; while [ $i -lt 60 ]; do /bin/true; i=$((i+1)); done');
    all.watch(sandbox, many.child.pid ?? 0);
    await many.run();
    clock.advance(50);
    expect(all.counts(sandbox)).toMatchObject({ execs: 60, exits: 61 });
    expect(told.length).toBeGreaterThan(0);
    expect(told.length + all.loss().events).toBe(121);
    told = [];
    const next = shell('exit 0');
    all.watch(sandbox, next.child.pid ?? 0);
    await next.run();
    all.poll();
    expect(kinds(sandbox)).toEqual(['exit']);
  });

  it('counts processes beyond its capacity, and refuses sandboxes beyond the limit', async () => {
    const all = await open({ processesMax: 1 });
    const sandbox = newSandboxId();
    const parent = shell('/bin/true; /bin/true; exit 0');
    all.watch(sandbox, parent.child.pid ?? 0);
    const second = shell('exit 0');
    expect(() => all.watch(newSandboxId(), second.child.pid ?? 0)).toThrowError(
      expect.objectContaining({ code: 'full' }),
    );
    await Promise.all([parent.run(), second.run()]);
    expect(all.loss()).toEqual({ events: 0, processes: 2 });
    expect(all.counts(sandbox)).toMatchObject({ execs: 0, exits: 1 });
  });

  it('does not watch a process that has ended, nor report a forgotten one', async () => {
    const all = await open();
    const sandbox = newSandboxId();
    const gone = shell('exit 0');
    await gone.run();
    expect(all.watch(sandbox, gone.child.pid ?? 0)).toBe(false);
    const left = shell('/bin/true; exit 0');
    all.watch(sandbox, left.child.pid ?? 0);
    all.forget(sandbox);
    all.forget(sandbox);
    await left.run();
    all.poll();
    expect(told).toEqual([]);
    expect(all.counts(sandbox)).toBeUndefined();
  });

  it('watches more sandboxes in sequence than fit at once', async () => {
    const all = await open();
    const each = newSandboxId();
    for (let number = 0; number < 5000; number += 1) {
      all.watch(each, process.pid);
      all.forget(each);
    }
    expect(all.watch(each, process.pid)).toBe(true);
  });
});
