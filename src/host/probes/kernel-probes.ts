/**
 * The BPF programs that a daemon keeps in the host's kernel while it runs (NEUROVISOR_PROBES). File descriptors hold
 * them, so they end with the daemon, however it ends.
 */
import { systemClock } from '../../base/clock.ts';
import { type Config, PROBE_NAMES, type ProbeName } from '../../base/config.ts';
import { CodedError, describeError } from '../../base/errors.ts';
import { type Home, resolveHome } from '../../base/home.ts';
import type { Log } from '../../base/log.ts';
import { gaugeBy, type Metric } from '../../base/metrics.ts';
import { syscallName } from '../../machine/jail/seccomp/syscalls.ts';
import { quantileNs } from '../../machine/observe/histogram.ts';
import type { Path, TapLatency } from '../../machine/observe/latency.ts';
import type { TracepointOptions } from '../../machine/observe/tracepoints.ts';
import type { HostMemoryEvents } from '../../sandbox/contract/memory-events.ts';
import type { PacketTimes, SandboxLoad } from '../../sandbox/plane/load.ts';
import { residentBytes } from './host-memory.ts';
import { bpfDir, INTERNET } from './latency.ts';
import { PacketLatency, type Probes } from './packet-latency.ts';
import { VmmProcesses, type VmmTracepoints } from './vmm-processes.ts';
import { VmmSyscalls } from './vmm-syscalls.ts';

export interface KernelProbesOptions {
  /** `null` if this is not a daemon; nothing is measured. */
  readonly probes: Config['probes'] | null;
  readonly home: Pick<Home, 'cacheDir'>;
  readonly log: Log;
}

export class KernelProbes {
  readonly packets: PacketLatency;
  readonly vmms: VmmProcesses;
  readonly syscalls: VmmSyscalls;

  constructor({ probes, home, log: daemonLog }: KernelProbesOptions) {
    const dir = bpfDir(home);
    // Most hosts lack something that was not explicitly requested; `doctor` says why.
    const info: Log['warn'] = (message, fields) => daemonLog.info(message, fields);
    const log = probes?.isAsked === true ? daemonLog : { ...daemonLog, warn: info };
    this.packets = new PacketLatency({ open: probes?.latency === true ? () => openPackets(dir) : null, log });
    this.vmms = new VmmProcesses({
      open: probes?.processes === true ? (onEvent) => openVmms(dir, onEvent) : null,
      clock: systemClock,
      log,
      residentBytes,
    });
    this.syscalls = new VmmSyscalls({
      open: probes?.syscalls === true ? () => openSyscalls(dir) : null,
      nameOf: callName,
      log,
    });
  }

  /** Starts the probes that are needed before the first sandbox; they open in the background. */
  start(): void {
    void this.vmms.start();
    void this.syscalls.start();
  }

  /** Call when a VM has started. @param group events of the VMM's own control group; `null` if it has none */
  watchVmm(sandboxId: string, pid: number, group: HostMemoryEvents | null) {
    this.syscalls.watch(pid);
    return this.vmms.watch(sandboxId, pid, group);
  }

  /** Measurements of one sandbox. @param pid the VMM's pid; `null` if it has no process */
  loadOf(sandboxId: string, pid: number | null): Pick<SandboxLoad, 'packets' | 'syscalls'> {
    const latency = this.packets.of(sandboxId);
    const syscalls = pid === null ? undefined : this.syscalls.of(pid);
    return {
      ...(latency === undefined ? {} : { packets: packetTimes(latency) }),
      ...(syscalls === undefined ? {} : { syscalls }),
    };
  }

  metrics(): readonly Metric[] {
    return [
      gaugeBy('neurovisor_probe_loaded', '1: this probe is loaded.', ['probe'], () => {
        const isLoaded = { latency: this.packets.isOpen, processes: this.vmms.isOpen, syscalls: this.syscalls.isOpen };
        return Object.entries(isLoaded).map(([probe, is]) => [{ probe }, is ? 1 : 0]);
      }),
      ...this.packets.metrics(),
      ...this.vmms.metrics(),
      ...this.syscalls.metrics(),
    ];
  }

  async close(): Promise<void> {
    this.vmms.close();
    this.syscalls.close();
    await this.packets.close();
  }
}

export async function tryProbes(config: Pick<Config, 'home' | 'probes'>): Promise<{
  readonly wanted: readonly ProbeName[];
  /** Unavailable probes, each with one clause of text. */
  readonly findings: readonly { readonly probe: ProbeName; readonly why: string; readonly remedy: string | null }[];
}> {
  const dir = bpfDir(resolveHome(config.home));
  const open: Readonly<Record<ProbeName, () => Promise<Disposable>>> = {
    latency: () => openPackets(dir),
    processes: () => openVmms(dir, () => undefined),
    syscalls: () => openSyscalls(dir),
  };
  const wanted = PROBE_NAMES.filter((probe) => config.probes[probe]);
  const tries = wanted.map(async (probe) => {
    try {
      using _ = await open[probe]();
      return [];
    } catch (error) {
      const remedy = error instanceof CodedError ? (error.remedy ?? null) : null;
      return [{ probe, why: describeError(error), remedy }];
    }
  });
  return { wanted, findings: (await Promise.all(tries)).flat() };
}

function packetTimes({ paths }: TapLatency): Readonly<Record<Path, PacketTimes>> {
  const quantile = (path: Path, fraction: number): number | null => {
    const ns = quantileNs(paths[path], fraction);
    return ns === undefined ? null : Math.round(ns);
  };
  const times = (path: Path): PacketTimes => ({
    count: paths[path].answered,
    p50Ns: quantile(path, 0.5),
    p95Ns: quantile(path, 0.95),
  });
  return { peer: times('peer'), guest: times('guest'), forward: times('forward') };
}

const names = new Map<number, string | undefined>();
/** Uses this processor's numbering. */
function callName(number: number): string | undefined {
  if (!names.has(number)) {
    names.set(number, syscallName(number, process.arch === 'x64' ? 'x86_64' : 'aarch64'));
  }
  return names.get(number);
}

/** Loaded only here: a daemon without network cards needs neither FFI nor netlink. */
async function openPackets(dir: string): Promise<Probes> {
  const [{ openLatencyProbes }, { Links }] = await Promise.all([
    import('../../machine/observe/probes.ts'),
    import('../../egress/net/link/links.ts'),
  ]);
  const probes = await openLatencyProbes({ dir });
  return {
    watchCard: async (name) => {
      using links = new Links();
      const link = links.find(name);
      return link === undefined ? undefined : await probes.watchTap(link.index);
    },
    watchUplink: async () => {
      using links = new Links();
      const index = links.routeTo(INTERNET)?.linkIndex;
      if (index !== undefined) await probes.watchUplink(index);
    },
    [Symbol.dispose]: () => probes[Symbol.dispose](),
  };
}

async function openVmms(dir: string, onEvent: TracepointOptions['onEvent']): Promise<VmmTracepoints> {
  const { openTracepoints } = await import('../../machine/observe/tracepoints.ts');
  return await openTracepoints({ dir, clock: systemClock, onEvent });
}

async function openSyscalls(dir: string) {
  const { openSyscallCounts } = await import('../../machine/observe/syscalls.ts');
  return await openSyscallCounts({ dir });
}
