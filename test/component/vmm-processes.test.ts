/** OOM kills and executed programs of VMMs, from the kernel's tracepoints; the VMMs are shells. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { FakeClock } from '../../src/base/clock.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { silentLog } from '../../src/base/log.ts';
import { residentBytes } from '../../src/host/probes/host-memory.ts';
import { VmmProcesses, type VmmProcessesParts } from '../../src/host/probes/vmm-processes.ts';
import { CgroupMemory } from '../../src/machine/observe/cgroup-memory.ts';
import { openTracepoints } from '../../src/machine/observe/tracepoints.ts';
import type { HostMemoryEvent } from '../../src/sandbox/contract/memory-events.ts';
import { need } from '../support/requires.ts';
import { makeSmallCgroup } from '../support/small-cgroup.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-vmm-processes-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const clock = new FakeClock();
let logged: { what: string; fields: object | undefined }[] = [];
const note = (what: string, fields?: object): void => void logged.push({ what, fields });
const log = { ...silentLog, warn: note, error: note };
const children: ChildProcess[] = [];
let vmms: VmmProcesses | undefined;
afterEach(() => {
  vmms?.close();
  vmms = undefined;
  logged = [];
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

function make(more: Partial<VmmProcessesParts> = {}): VmmProcesses {
  vmms = new VmmProcesses({
    open: (onEvent) => openTracepoints({ dir, clock, onEvent }),
    clock,
    residentBytes,
    log,
    ...more,
  });
  return vmms;
}

/** A shell that waits for its stdin before it does something. */
function vmm(script: string, cgroup?: string): { pid: number; run(): Promise<void> } {
  const enter = cgroup === undefined ? '' : `echo $$ > ${cgroup}/cgroup.procs; `;
  const child = spawn('sh', ['-c', `${enter}read line; ${script}`], { stdio: ['pipe', 'ignore', 'ignore'] });
  children.push(child);
  const ended = once(child, 'exit');
  const run = async (): Promise<void> => {
    child.stdin?.end('\n');
    await ended;
  };
  return { pid: child.pid ?? 0, run };
}

async function sample(name: string, labels: Record<string, string> = {}): Promise<number> {
  const metric = vmms?.metrics().find((one) => one.name === name);
  const found = metric
    ?.samples()
    .filter((one) => Object.entries(labels).every(([key, value]) => one.labels[key] === value));
  return (found ?? []).reduce((sum, { value }) => sum + value, 0);
}

describe('VmmProcesses', () => {
  it('an OOM kill: reported once, with its victim and the victim’s memory', async ({ skip }) => {
    using cgroup = need({ skip }, 'cgroup', makeSmallCgroup(24 * 1024 * 1024));
    const all = make();
    await all.start();
    // tail buffers input without a line end; its memory belongs to the VMM's group.
    const greedy = vmm('tail -n 1 /dev/zero', cgroup.dir);
    const told: HostMemoryEvent[] = [];
    const group = new CgroupMemory(cgroup.dir, clock);
    const watched = all.watch(newSandboxId(), greedy.pid, group);
    const stop = watched?.listen((event) => told.push(event));
    await greedy.run();
    stop?.();
    expect(told.filter(({ type }) => type === 'oom')).toEqual([
      {
        type: 'oom',
        victim: { pid: expect.any(Number), name: 'tail', rssBytes: expect.any(Number) },
        detail: expect.stringContaining('OOM killer'),
      },
    ]);
    const [oom] = told.filter((event) => event.type === 'oom');
    expect(oom?.victim?.rssBytes).toBeGreaterThan(8 * 1024 * 1024);
    expect(watched?.oomKills()).toBe(1);
    expect(told.find(({ type }) => type === 'pressure')).toBeDefined();
    expect(await sample('neurovisor_host_oom_kills_total', { process: 'vmm' })).toBe(1);
    expect(await sample('neurovisor_vmms_followed')).toBe(0);
    const [count] =
      vmms
        ?.metrics()
        .find(({ name }) => name === 'neurovisor_vmm_reclaim_seconds')
        ?.samples()
        .filter(({ suffix }) => suffix === '_count') ?? [];
    expect(count?.value).toBeGreaterThan(0);
  });

  it('without tracepoints: an OOM kill is reported by the control group, without its victim', async ({ skip }) => {
    using cgroup = need({ skip }, 'cgroup', makeSmallCgroup(24 * 1024 * 1024));
    const all = make({ open: () => Promise.reject(new Error('not today')) });
    await all.start();
    const greedy = vmm('tail -n 1 /dev/zero', cgroup.dir);
    const told: HostMemoryEvent[] = [];
    const watched = all.watch(newSandboxId(), greedy.pid, new CgroupMemory(cgroup.dir, clock));
    const stop = watched?.listen((event) => told.push(event));
    await greedy.run();
    stop?.();
    expect(told.filter(({ type }) => type === 'oom')).toMatchObject([{ victim: null }]);
    expect(watched?.oomKills()).toBe(1);
    expect(logged).toEqual([{ what: 'processes of VMMs are not traced', fields: { reason: 'not today' } }]);
  });

  it('a program that a VMM executes is reported, logged and counted; its process is unknown', async () => {
    const all = make();
    await all.start();
    const bad = vmm('/bin/true; exit 0');
    const told: HostMemoryEvent[] = [];
    const id = newSandboxId();
    const stop = all.watch(id, bad.pid, null)?.listen((event) => told.push(event));
    expect(await sample('neurovisor_vmms_followed')).toBe(1);
    await bad.run();
    clock.advance(50);
    stop?.();
    expect(told).toEqual([{ type: 'security', what: 'vmm_exec', detail: expect.stringContaining(': true') }]);
    expect(logged).toMatchObject([{ fields: { sandbox: id, program: 'true' } }]);
    expect(await sample('neurovisor_vmm_execs_total')).toBe(1);
    expect(await sample('neurovisor_vmm_exits_total', { process: 'vmm' })).toBe(1);
    expect(await sample('neurovisor_vmm_exits_total', { process: 'unknown' })).toBe(1);
  });

  it('a VMM that starts before the tracepoints is followed once they are attached', async () => {
    const all = make();
    const early = vmm('exec /bin/true');
    const told: HostMemoryEvent[] = [];
    const stop = all.watch(newSandboxId(), early.pid, null)?.listen((event) => told.push(event));
    await all.start();
    await early.run();
    stop?.();
    expect(told).toMatchObject([{ type: 'security' }]);
  });

  it('the next VMM of a sandbox replaces the previous one, whose listener gets no more events', async () => {
    const all = make();
    await all.start();
    const id = newSandboxId();
    const [first, second] = [vmm('exit 0'), vmm('exec /bin/true')];
    const told: string[] = [];
    const stopFirst = all.watch(id, first.pid, null)?.listen(() => told.push('first'));
    const stopSecond = all.watch(id, second.pid, null)?.listen(() => told.push('second'));
    stopFirst?.();
    expect(await sample('neurovisor_vmms_followed')).toBe(1);
    await Promise.all([first.run(), second.run()]);
    stopSecond?.();
    expect(told).toEqual(['second']);
    expect(await sample('neurovisor_vmms_followed')).toBe(0);
  });

  it('disabled: events of the control group remain, and no tracepoint is opened', async () => {
    const all = make({ open: null });
    await all.start();
    const group = { listen: () => () => undefined, oomKills: () => 7 };
    expect(all.watch(newSandboxId(), process.pid, group)).toBe(group);
    expect(all.isOpen).toBe(false);
    expect(logged).toEqual([]);
  });
});
