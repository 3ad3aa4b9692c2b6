/**
 * Metrics of this process: all counters of its parts in one registry for `/metrics`, and the current load of each
 * sandbox for `neurovisor top`.
 *
 *     supervisors ── phases, ends, channels ──┐
 *     leases ─────── traffic, refusals ───────┼─► MetricRegistry ─► GET /metrics
 *     control plane, queue, pools, bridge ────┘        (docs/metrics.md)
 *
 * Sandbox ids are never labels: only sums over sandboxes are exported.
 */
import { availableParallelism } from 'node:os';
import type { Clock } from '../../base/clock.ts';
import { awaitOr, ignore, ignoredErrors } from '../../base/ignore.ts';
import { Counter, gauge, gaugeBy, Histogram, type Metric, MetricRegistry, total, totalBy } from '../../base/metrics.ts';
import { MIB } from '../../base/units.ts';
import type { NetworkLease } from '../../egress/net/lease/lease.ts';
import type { UsageRecord } from '../../inference/bridge/bridge.ts';
import type { ControlPlane, SandboxInfo } from '../../sandbox/contract/control.ts';
import type { StartTimings } from '../../sandbox/contract/parts.ts';
import type { LiveClone } from '../../sandbox/memory/clone-size.ts';
import type { RecentEvents } from '../../sandbox/plane/event-journal.ts';
import type { SandboxLoad, SandboxLoads } from '../../sandbox/plane/load.ts';
import type { StartGate } from '../../sandbox/start/start-gate.ts';
import type { StartQueue } from '../../sandbox/start/start-queue.ts';
import type { Supervisor } from '../../sandbox/vm/supervisor.ts';
import { anonymousBytes, availableMib, memoryPressure } from '../probes/host-memory.ts';
import { HomeDisk } from './home-disk.ts';
import { LongTurns } from './long-turns.ts';
import { Totals } from './totals.ts';
import { channelMetrics, networkMetrics, REFUSED } from './traffic-metrics.ts';

/** Timeout of a scrape for its sources; after that it exports their last values. */
const ASK_MS_MAX = 2000;
/** Boots in software emulation take seconds, a claim from a pool a millisecond. */
const START_BOUNDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30, 60] as const;

const MICROSECONDS_PER_SECOND = 1e6;
const PHASES = ['prepare', 'vmm', 'kernel', 'agent'] as const;

export class HostMetrics {
  readonly registry = new MetricRegistry();
  /** Turns of the event loop, if a `LoopWatch` measures them. */
  readonly turns = new LongTurns();
  readonly #clock: Clock;
  readonly #channels = new Totals();
  readonly #network = new Totals();
  readonly #sandboxes = new Set<Supervisor>();
  readonly #leases = new Set<CountedLease>();
  /** By id of live sandboxes. */
  readonly #tokens = new Map<string, number>();
  #channelsOpen = 0;
  #events: RecentEvents | undefined;
  #sharedBytes: () => number = () => 0;
  #measuredOf: (id: string, pid: number | null) => Partial<SandboxLoad> = () => ({});
  readonly #phases = new Histogram(
    'neurovisor_start_phase_seconds',
    'Phases of a VM start: prepare, vmm, kernel, agent.',
    ['origin', 'phase'],
    { bounds: START_BOUNDS },
  );
  readonly #boots = new Histogram('neurovisor_vm_boot_seconds', 'Start of a VM until its agent is ready.', ['origin'], {
    bounds: START_BOUNDS,
  });
  readonly #acquired = new Histogram(
    'neurovisor_vm_acquire_seconds',
    'Request for a sandbox until it is ready, queue included.',
    ['origin'],
    { bounds: START_BOUNDS },
  );
  readonly #vmEnds = new Counter('neurovisor_vm_ends_total', 'Ended VMs, pool members included.', ['cause']);
  readonly #resizes = new Counter('neurovisor_memory_resizes_total', 'Memory resizes, by pressure or by the owner.', [
    'by',
    'direction',
  ]);

  /** @param homeDir on the file system that is measured */
  constructor(clock: Clock, homeDir: string) {
    this.#clock = clock;
    this.registry.add(this.#phases, this.#boots, this.#acquired, this.#vmEnds, this.#resizes);
    this.registry.add(
      ...channelMetrics(this.#channels, () => this.#channelsOpen),
      ...networkMetrics(this.#network, () => this.#leases.size),
    );
    this.#addHost();
    this.#addDisk(homeDir);
    this.registry.beforeScrape(() => this.#ask());
  }

  /** Call before the start. */
  watch(sandbox: Supervisor): void {
    this.#sandboxes.add(sandbox);
    sandbox.onTransition(({ state, event }) => {
      if (event === 'agent-confirmed' && sandbox.timings !== undefined) this.#started(sandbox.timings);
      // The counts end with the device, which is unplugged or killed next.
      if (state === 'saving' || state === 'stopping') void this.#askChannel(sandbox);
    });
    sandbox.events.listen((event) => {
      if (event.type !== 'resized') return;
      this.#resizes.add({ by: event.by, direction: event.toMib < event.fromMib ? 'less' : 'more' });
    });
    void sandbox.ended.then(({ cause }) => {
      this.#sandboxes.delete(sandbox);
      this.#tokens.delete(sandbox.spec.id);
      this.#vmEnds.add({ cause });
    });
  }

  /** Returns a function to call before the lease is released: it reads and keeps the last counts. */
  watchLease(lease: CountedLease): () => Promise<void> {
    this.#leases.add(lease);
    return async () => {
      if (this.#leases.delete(lease)) await this.#askLease(lease);
    };
  }

  noteUsage({ sandboxId, promptTokens, completionTokens }: UsageRecord): void {
    const lives = [...this.#sandboxes].some(({ spec }) => spec.id === sandboxId);
    if (!lives) return;
    const known = this.#tokens.get(sandboxId) ?? 0;
    this.#tokens.set(sandboxId, known + promptTokens + completionTokens);
  }

  /** Call once. */
  addControl(
    control: ControlPlane & { readonly recentEvents: RecentEvents },
    queue: Pick<StartQueue, 'stats'>,
    gate: Pick<StartGate, 'isCordoned'>,
  ): void {
    this.#events = control.recentEvents;
    this.#addSandboxes(control);
    this.#addPools(control);
    this.registry.add(
      gauge('neurovisor_cordoned', '1: new sandboxes are refused.', () => Number(gate.isCordoned)),
      gaugeBy(
        'neurovisor_start_queue_waiting',
        'Starts in the queue: requests, and refills of pools.',
        ['kind'],
        () => {
          const { waiting, waitingLow } = queue.stats();
          return [
            [{ kind: 'request' }, waiting],
            [{ kind: 'refill' }, waitingLow],
          ];
        },
      ),
      gauge('neurovisor_starts_in_progress', 'Starts in progress.', () => queue.stats().running),
      gauge(
        'neurovisor_start_reserved_bytes',
        'Memory reserved by starts in progress.',
        () => queue.stats().reservedMib * MIB,
      ),
    );
  }

  /** The current load of each sandbox with a VM. */
  loads(): SandboxLoads {
    const sandboxes = [...this.#sandboxes].map((one): SandboxLoad => {
      const pid = one.vm?.pid ?? null;
      return {
        id: one.spec.id,
        state: one.state,
        memoryBytes: ownBytes(one),
        modelRequests: one.modelRequests,
        tokens: this.#tokens.get(one.spec.id) ?? 0,
        lastPressure: one.events.lastPressure,
        lastOom: one.events.lastOom,
        ...this.#measuredOf(one.spec.id, pid),
      };
    });
    const events = this.#events?.list() ?? [];
    const atMs = this.#clock.wall();
    const sharedMemoryBytes = this.#sharedBytes();
    return { atMs, sandboxes, sharedMemoryBytes, memoryPressure: memoryPressure(), events };
  }

  /** @param measuredOf measurements of a sandbox; `pid` is the VMM's, `null` if it has none */
  addLoads(measuredOf: (id: string, pid: number | null) => Partial<SandboxLoad>): void {
    this.#measuredOf = measuredOf;
  }

  /** VMs that share RAM with others, including pool members. */
  sharingVms(): readonly LiveClone[] {
    const sharing = [...this.#sandboxes].filter(({ sharers }) => sharers !== null);
    return sharing.map((one) => {
      const bytes = ownBytes(one);
      return { ownMib: bytes === null ? null : bytes / MIB, sizeMib: one.spec.memoryMib };
    });
  }

  /** @param usedBytes bytes of RAM that VMs share. Call once. */
  addSharedRam(usedBytes: () => number): void {
    this.#sharedBytes = usedBytes;
  }

  vmmPids(): readonly number[] {
    return [...this.#sandboxes].flatMap(({ vm }) => vm?.pid ?? []);
  }

  #started(timings: StartTimings): void {
    const { origin, prepareMs, vmmMs, kernelMs, agentMs, totalMs } = timings;
    const spans = { prepare: prepareMs, vmm: vmmMs, kernel: kernelMs, agent: agentMs };
    for (const phase of PHASES) this.#phases.observe({ origin, phase }, spans[phase] / 1000);
    this.#boots.observe({ origin }, totalMs / 1000);
  }

  #addSandboxes(control: ControlPlane): void {
    const ended = new Counter('neurovisor_sandboxes_ended_total', 'Ended sandboxes.', ['cause']);
    /** Sandboxes that have been ready. */
    const known = new Set<string>();
    control.onChange((info) => {
      if (info.status === 'ended') {
        known.delete(info.id);
        ended.add({ cause: info.end?.cause ?? 'unknown' });
      } else if (info.status === 'running' && info.readyMs !== null && !known.has(info.id)) {
        known.add(info.id);
        this.#acquired.observe({ origin: info.origin }, info.readyMs / 1000);
      }
    });
    let list: readonly SandboxInfo[] = [];
    this.registry.beforeScrape(async () => {
      list = await this.#inTime(control.list(), list);
    });
    this.registry.add(
      ended,
      gaugeBy('neurovisor_sandboxes', 'Sandboxes that have not ended.', ['status'], () =>
        Object.entries(Object.groupBy(list, ({ status }) => status)).map(([status, of]) => [{ status }, of.length]),
      ),
      gauge(
        'neurovisor_pool_active_vms',
        'Running sandboxes.',
        () => list.filter(({ status }) => status === 'running').length,
      ),
    );
  }

  #addPools(control: ControlPlane): void {
    let pools: Awaited<ReturnType<ControlPlane['pools']>> = [];
    this.registry.beforeScrape(async () => {
      pools = await this.#inTime(control.pools(), pools);
    });
    const sum = (key: 'ready' | 'starting' | 'target' | 'hits' | 'misses' | 'discarded'): number =>
      pools.reduce((total, pool) => total + pool[key], 0);
    this.registry.add(
      gauge('neurovisor_pool_warm_vms', 'Ready members of all pools.', () => sum('ready')),
      gauge('neurovisor_pool_starting_vms', 'Starting members of all pools.', () => sum('starting')),
      gauge('neurovisor_pool_target_vms', 'Target size of all pools together.', () => sum('target')),
      totalBy(
        'neurovisor_pool_claims_total',
        'Requests that found a ready member (hit) or none (miss); unhealthy members (discarded).',
        ['result'],
        () => [
          [{ result: 'hit' }, sum('hits')],
          [{ result: 'miss' }, sum('misses')],
          [{ result: 'discarded' }, sum('discarded')],
        ],
      ),
    );
  }

  #addHost(): void {
    this.registry.add(
      gauge(
        'neurovisor_host_memory_available_bytes',
        'MemAvailable of the host, or what a control group leaves.',
        () => availableMib() * MIB,
      ),
      gaugeBy(
        'neurovisor_host_memory_pressure_ratio',
        'Share of 10 s in which some or all tasks waited for memory (PSI).',
        ['kind'],
        () => Object.entries(memoryPressure() ?? {}).map(([kind, ratio]) => [{ kind }, ratio]),
      ),
      gauge('neurovisor_vmm_resident_bytes', 'Memory of all VMMs and guests, without shared RAM.', () =>
        [...this.#sandboxes].reduce((sum, one) => sum + (ownBytes(one) ?? 0), 0),
      ),
      gauge('neurovisor_shared_ram_bytes', 'RAM that VMs share, counted once.', () => this.#sharedBytes()),
      gauge(
        'neurovisor_guest_memory_bytes',
        'Current memory size of all guests.',
        () => [...this.#sandboxes].reduce((sum, { spec }) => sum + spec.memoryMib, 0) * MIB,
      ),
      ...processMetrics(),
      ...this.turns.metrics(),
      ignoredErrors,
    );
  }

  #addDisk(homeDir: string): void {
    const disk = new HomeDisk(homeDir);
    this.registry.add(disk.metric);
    this.registry.beforeScrape(() => this.#inTime(disk.ask(), undefined));
  }

  async #ask(): Promise<void> {
    const open = [...this.#sandboxes].map((one) => this.#askChannel(one));
    const leases = [...this.#leases].map((lease) => this.#askLease(lease));
    const counts = await this.#inTime(Promise.all(open), []);
    await this.#inTime(Promise.all(leases), []);
    this.#channelsOpen = counts.reduce((sum, count) => sum + count, 0);
  }

  async #askChannel(sandbox: Supervisor): Promise<number> {
    const { vm } = sandbox;
    if (vm === undefined) return 0;
    return await awaitOr(0, 'the VM is ending', async () => {
      const { connectionsOpen, ...counted } = await vm.channelStats();
      this.#channels.note(vm, counted);
      return connectionsOpen;
    });
  }

  async #askLease(lease: CountedLease): Promise<void> {
    try {
      const { refused, bytesUsed: _, ...counted } = await lease.traffic();
      const reasons = Object.entries(refused).map(([name, count]) => [REFUSED + name, count]);
      this.#network.note(lease, { ...counted, ...Object.fromEntries(reasons) });
    } catch (error) {
      ignore(error, 'the network is ending');
    }
  }

  async #inTime<T>(asked: Promise<T>, otherwise: T): Promise<T> {
    const late = Promise.withResolvers<T>();
    const stop = this.#clock.after(ASK_MS_MAX, () => late.resolve(otherwise));
    try {
      return await Promise.race([asked, late.promise]);
    } catch (error) {
      ignore(error, 'the last values are exported');
      return otherwise;
    } finally {
      stop();
    }
  }
}

/**
 * Memory freed with the VM: its VMM's anonymous memory, and RAM in a memory of its own. `null` if it has no process.
 */
function ownBytes({ vm, ramBytes }: Supervisor): number | null {
  const pid = vm?.pid ?? null;
  const bytes = pid === null ? null : anonymousBytes(pid);
  return bytes === null ? null : bytes + ramBytes;
}

/** A network lease, as far as it is measured. */
export type CountedLease = Pick<NetworkLease, 'traffic'>;

/** The standard Prometheus metrics of this process. */
function processMetrics(): readonly Metric[] {
  return [
    gauge('neurovisor_host_cpus', 'Processors available to this process.', availableParallelism),
    gauge('process_resident_memory_bytes', 'Resident memory of the daemon.', () => process.memoryUsage.rss()),
    total('process_cpu_seconds_total', 'Processor time of the daemon.', () => {
      const { user, system } = process.cpuUsage();
      return (user + system) / MICROSECONDS_PER_SECOND;
    }),
  ];
}
