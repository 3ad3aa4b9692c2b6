/**
 * Resources of vsock devices that all VMs share, and the cost of not sharing them: an interrupt that can't block, a
 * device on the common worker thread, the end of a guest's RAM.
 */
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MIB } from '../../src/base/units.ts';
import { makeMemory } from '../../src/host/runtime/ram/memory.ts';
import { createVsockHost, type VsockHost } from '../../src/machine/vsock/host.ts';
import { EventSignaler } from '../../src/sys/event-signal.ts';
import { closeFd, createEventFd, createMemFd, signalEventFd } from '../../src/sys/fd.ts';
import { mapShared, PAGE_BYTES } from '../../src/sys/memory.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';

/** Calls per sample: one takes less than the clock resolves. */
const CALLS = 1_000;
const RAM_BYTES = 256 * MIB;
const NS_PER_MS = 1e6;
const KIB_PER_MIB = 1024;

export const workerBenchmark: Benchmark = {
  names: ['worker.signal', 'worker.attach', 'worker.memory', 'worker.free'],
  summary: 'an interrupt that cannot block, a device on the common thread, the end of a RAM',
  withoutRuntime: true,
  async measure(context) {
    return [
      ...(context.wants('worker.signal') ? [signals(context)] : []),
      ...(context.wants('worker.attach') || context.wants('worker.memory') ? await devices(context) : []),
      ...(context.wants('worker.free') ? [frees(context)] : []),
    ];
  },
};

function signals({ rounds }: BenchContext): Measurement {
  const signaler = new EventSignaler();
  const fd = createEventFd();
  const [samples, written]: [number[], number[]] = [[], []];
  const perCall = (call: () => void): number => {
    const startMs = performance.now();
    for (let count = 0; count < CALLS; count += 1) call();
    return ((performance.now() - startMs) * NS_PER_MS) / CALLS;
  };
  for (let round = 0; round < rounds; round += 1) {
    samples.push(perCall(() => signaler.signal(fd)));
    written.push(perCall(() => signalEventFd(fd)));
  }
  signaler.close();
  closeFd(fd);
  return {
    name: 'worker.signal',
    unit: 'ns',
    accelerator: 'none',
    samples,
    baseline: { name: 'write(2), which blocks', samples: written },
  };
}

/** The baseline has a thread for each device. All stay until the end, as VMs do. */
async function devices({ rounds, say }: BenchContext): Promise<Measurement[]> {
  const dir = await mkdtemp(join(tmpdir(), 'neurovisor-bench-'));
  const common = createVsockHost();
  const hosts = [common];
  // Each host waits for the end of the process.
  process.setMaxListeners(process.getMaxListeners() + rounds);
  let lastCid = 2;
  const attach = async (host: VsockHost): Promise<{ ms: number; mib: number }> => {
    lastCid += 1;
    const path = join(dir, String(lastCid));
    const [startMs, startMib] = [performance.now(), ownMib()];
    const device = await host.attach({
      id: 'bench',
      guestCid: lastCid,
      vhostSocketPath: `${path}.vhost`,
      channelPath: path,
    });
    await device.stats();
    return { ms: performance.now() - startMs, mib: ownMib() - startMib };
  };
  const [shared, alone]: [{ ms: number; mib: number }[], { ms: number; mib: number }[]] = [[], []];
  try {
    // Starts the common thread.
    await attach(common);
    for (let round = 1; round <= rounds; round += 1) {
      say(`devices, round ${round} of ${rounds}`);
      shared.push(await attach(common));
      const host = createVsockHost();
      hosts.push(host);
      alone.push(await attach(host));
    }
  } finally {
    for (const host of hosts) await host.close();
    await rm(dir, { recursive: true, force: true });
  }
  const figure = (part: 'ms' | 'mib'): Pick<Measurement, 'accelerator' | 'samples' | 'baseline'> => ({
    accelerator: 'none',
    samples: shared.map((each) => each[part]),
    baseline: { name: 'a thread for each device', samples: alone.map((each) => each[part]) },
  });
  return [
    { name: 'worker.attach', unit: 'ms', ...figure('ms') },
    { name: 'worker.memory', unit: 'MiB', ...figure('mib') },
  ];
}

/** How long the end of a guest's RAM blocks its thread. */
function frees({ rounds, say }: BenchContext): Measurement {
  const [samples, plain]: [number[], number[]] = [[], []];
  for (let round = 1; round <= rounds; round += 1) {
    say(`RAM, round ${round} of ${rounds}`);
    const memory = makeMemory(RAM_BYTES);
    touch(memory.fd);
    samples.push(msOf(() => memory.close()));
    const fd = createMemFd('bench', RAM_BYTES);
    touch(fd);
    plain.push(msOf(() => closeFd(fd)));
  }
  return {
    name: 'worker.free',
    unit: 'ms',
    accelerator: 'none',
    samples,
    baseline: { name: 'close(2) on the same thread', samples: plain },
  };
}

function touch(fd: number): void {
  const mapping = mapShared(fd, 0, RAM_BYTES);
  const bytes = new Uint8Array(mapping.buffer);
  for (let at = 0; at < RAM_BYTES; at += PAGE_BYTES) bytes[at] = 1;
  mapping.unmap();
}

function msOf(action: () => void): number {
  const startMs = performance.now();
  action();
  return performance.now() - startMs;
}

/** Proportional set size of this process. */
function ownMib(): number {
  const rollup = readFileSync('/proc/self/smaps_rollup', 'latin1');
  return Number(/^Pss:\s+(\d+)/m.exec(rollup)?.[1] ?? Number.NaN) / KIB_PER_MIB;
}
