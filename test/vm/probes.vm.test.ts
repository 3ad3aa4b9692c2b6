/** What a daemon measures of a real sandbox in the kernel, in separate namespaces. */
import { existsSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readConfig } from '../../src/base/config.ts';
import { resolveHome } from '../../src/base/home.ts';
import type { Daemon } from '../../src/cli/library/daemon.ts';
import { memoryGroup } from '../../src/host/probes/vmm-memory.ts';
import { readSample } from '../../src/machine/observe/memory-counters.ts';
import type { TimedEvent } from '../../src/sandbox/contract/events.ts';
import type { SandboxLoad } from '../../src/sandbox/plane/load.ts';
import { parseExposition } from '../support/exposition.ts';
import { limitGroup } from '../support/host-cgroup.ts';
import { ALLOWED, NetworkWorld } from '../support/network-world.ts';
import { python } from '../support/vm.ts';

const PATIENT = { timeout: 200_000, interval: 200 };

let world: NetworkWorld;
let control: Daemon;
beforeAll(async () => {
  world = await NetworkWorld.create();
  ({ control } = await world.serve({ NEUROVISOR_PROBES: 'latency,processes,syscalls' }));
});
afterAll(async () => {
  await control?.[Symbol.asyncDispose]();
  await world?.[Symbol.asyncDispose]();
});

async function counted(name: string, labels: Record<string, string> = {}): Promise<number> {
  const samples = parseExposition(await control.metrics()).flatMap((family) => family.samples);
  const found = samples.filter(
    (one) => one.name === name && Object.entries(labels).every(([key, value]) => one.labels[key] === value),
  );
  return found.reduce((sum, { value }) => sum + value, 0);
}

async function loadOf(id: string): Promise<SandboxLoad | undefined> {
  return (await control.loads()).sandboxes.find((load) => load.id === id);
}

/** The group that the VMM of a sandbox has for itself, and how much is in it. */
async function groupOf(id: string): Promise<{ dir: string; bytes: number }> {
  const { runDir } = resolveHome(readConfig({ NEUROVISOR_HOME: world.home }).home);
  const record = await readFile(join(runDir, id, 'owner.json'), 'utf8');
  const { pid } = (JSON.parse(record) as { vmm: { pid: number } }).vmm;
  const dir = memoryGroup(`${pid}`) ?? '';
  const sample = readSample((name) => {
    const path = join(dir, name);
    return existsSync(path) ? readFileSync(path, 'utf8') : null;
  });
  return { dir, bytes: sample?.memoryBytes ?? 0 };
}

describe('daemon with probes', () => {
  it('/metrics and the load of a sandbox show its packets, system calls and jail', async () => {
    const network = { mode: 'allowlist', allow: [ALLOWED.name] } as const;
    const { id } = await control.create({ network, memoryMib: 256, diskMib: 64 });
    const guest = await control.guest(id);
    const url = `http://${ALLOWED.name}/`;
    const code = `import urllib.request\nprint(urllib.request.urlopen('${url}', timeout=60).status)`;
    expect((await python(guest, code)).stdout.trim()).toBe('200');
    for (const probe of ['latency', 'processes', 'syscalls'])
      expect(await counted('neurovisor_probe_loaded', { probe }), probe).toBe(1);
    expect(await counted('neurovisor_network_latency_cards')).toBe(1);
    expect(await counted('neurovisor_vmms_followed')).toBe(1);
    // SYN and request of the guest, and the answer to it.
    const count = 'neurovisor_network_latency_seconds_count';
    const peer = await counted(count, { path: 'peer' });
    expect(peer).toBeGreaterThanOrEqual(2);
    expect(await counted(count, { path: 'guest' })).toBeGreaterThanOrEqual(1);
    const load = await loadOf(id);
    expect(load?.packets?.peer).toMatchObject({ p50Ns: expect.any(Number) });
    expect(load?.packets?.peer.count).toBeGreaterThanOrEqual(peer);
    // QEMU waits by it, whatever else it does.
    expect(load?.syscalls?.['ppoll']).toBeGreaterThan(0);
    expect(await counted('neurovisor_vmm_syscalls_total', { call: 'ppoll' })).toBeGreaterThan(0);
    expect(await counted('neurovisor_jailed_vmms')).toBe(1);
    const most = { kind: 'current', over: 'max' };
    expect(await counted('neurovisor_vmm_group_memory_bytes', most)).toBeGreaterThan(32 << 20);
    expect(await counted('neurovisor_vmm_group_memory_ratio')).toBeGreaterThan(0);
    expect(await counted('neurovisor_vmm_execs_total')).toBe(0);

    await control.remove(id);
    expect(await counted('neurovisor_network_latency_cards')).toBe(0);
    expect(await counted('neurovisor_vmms_followed')).toBe(0);
    expect(await counted('neurovisor_jailed_vmms')).toBe(0);
    expect(await counted(count, { path: 'peer' })).toBeGreaterThanOrEqual(peer);
    await expect.poll(() => counted('neurovisor_vmm_exits_total', { process: 'vmm' }), PATIENT).toBe(1);
    expect(await counted('neurovisor_vmm_exits_total', { process: 'unknown' })).toBe(0);
  });

  it('a VMM killed at its memory limit: its name and memory are reported once, and it is the cause', async () => {
    const { id } = await control.create({ memoryMib: 192, diskMib: 64 });
    const events: TimedEvent[] = [];
    const over = new AbortController();
    const reading = (async () => {
      for await (const event of control.events(id, { follow: true, signal: over.signal })) events.push(event);
    })();
    const { dir, bytes } = await groupOf(id);
    limitGroup(dir, bytes + 24 * 2 ** 20);
    const guest = await control.guest(id);
    const greedy = { argv: ['python3', '-c', 'kept = bytearray(100 << 20)'], user: 'root' } as const;
    const process = await guest.exec({ ...greedy, stdin: false });
    process.stdout.resume();
    process.stderr.resume();
    process.exit.catch(() => undefined);
    await expect.poll(async () => (await control.get(id)).status, PATIENT).toBe('ended');
    await reading;
    over.abort();
    const kills = events.filter((event) => event.type === 'oom');
    const victim = { name: expect.stringContaining('qemu'), rssBytes: expect.any(Number) };
    expect(kills).toMatchObject([{ source: 'host', victim }]);
    expect(kills[0]?.victim?.rssBytes).toBeGreaterThan(32 << 20);
    expect((await control.get(id)).end).toMatchObject({
      cause: 'host-oom',
      detail: expect.stringMatching(/qemu.* held \d+ MiB$/),
      evidence: { lastOom: { source: 'host', victim } },
    });
    expect(await counted('neurovisor_host_oom_kills_total', { process: 'vmm' })).toBe(1);
    // It waited for memory before.
    expect(await counted('neurovisor_vmm_reclaim_seconds_count')).toBeGreaterThan(0);
  });
});
