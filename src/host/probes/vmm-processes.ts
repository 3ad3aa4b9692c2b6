/**
 * Kernel events about VMMs, and forbidden actions of VMMs, while a daemon runs:
 *
 *     tracepoints (bpf/processes.bpf.c) ─┐                    ┌─► events and ending of its sandbox
 *                                        ├─► one VMM's watch ─┤
 *     its control group (VmmMemory) ─────┘                    └─► sums: `metrics`
 *
 * An OOM kill is reported once: with its victim if the tracepoints see it, otherwise as the control group counts it.
 * Without tracepoints a warning is logged once and the control group is the only source.
 */

import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import { parseSandboxId, type SandboxId } from '../../base/ids.ts';
import { Listeners } from '../../base/listeners.ts';
import type { Log } from '../../base/log.ts';
import { Counter, gauge, histogramSamples, type Metric, totalBy } from '../../base/metrics.ts';
import type { ProcessEvent, SandboxCounts } from '../../machine/observe/events.ts';
import { EMPTY, type Histogram, sumHistograms, toPrometheus } from '../../machine/observe/histogram.ts';
import { ReclaimMeter } from '../../machine/observe/reclaim-meter.ts';
import type { TracepointOptions, Tracepoints } from '../../machine/observe/tracepoints.ts';
import type { HostMemoryEvent, HostMemoryEvents } from '../../sandbox/contract/memory-events.ts';
import { OpenedOnce } from './opened-once.ts';

export type VmmTracepoints = Pick<Tracepoints, 'watch' | 'forget' | 'counts' | 'loss' | 'poll' | 'missing'> &
  Disposable;

export interface VmmProcessesParts {
  /** `null` if disabled. @throws ObserveError when tracepoints are not available */
  readonly open: ((onEvent: TracepointOptions['onEvent']) => Promise<VmmTracepoints>) | null;
  /** Resident memory of a process in bytes; `null` if it has ended. */
  residentBytes(pid: number): number | null;
  readonly clock: Clock;
  readonly log: Log;
}

export class VmmProcesses {
  readonly #parts: VmmProcessesParts;
  readonly #watches = new Map<SandboxId, VmmWatch>();
  readonly #kills = new Counter('neurovisor_host_oom_kills_total', 'OOM kills of this host: vmm, or other.', [
    'process',
  ]);
  readonly #execs = new Counter(
    'neurovisor_vmm_execs_total',
    'Programs that VMMs executed after their start: should be 0.',
  );
  readonly #exits = new Counter('neurovisor_vmm_exits_total', 'Exits of VMM processes; unknown: started by a VMM.', [
    'process',
  ]);
  #ended: Histogram = EMPTY;
  readonly #tracepoints: OpenedOnce<VmmTracepoints>;

  constructor(parts: VmmProcessesParts) {
    this.#parts = parts;
    const { open, log } = parts;
    this.#tracepoints = new OpenedOnce({
      open: open && (() => open((event, sandbox) => this.#take(event, sandbox))),
      opened: (tracepoints) => {
        for (const [id, watch] of this.#watches) this.#follow(id, watch, tracepoints);
        if (tracepoints.missing.length > 0)
          log.warn('this kernel lacks tracepoints', { missing: tracepoints.missing.join(', ') });
      },
      failed: (error) => log.warn('processes of VMMs are not traced', { reason: describeError(error) }),
    });
    for (const process of ['vmm', 'other']) this.#kills.add({ process }, 0);
    for (const process of ['vmm', 'unknown']) this.#exits.add({ process }, 0);
  }

  get isOpen(): boolean {
    return this.#tracepoints.value !== undefined;
  }

  /** Resolves when the tracepoints are open or have failed. Idempotent; never rejects. */
  start(): Promise<void> {
    return this.#tracepoints.start();
  }

  /** @param group events of the VMM's own control group; `null` if it has none */
  watch(sandbox: string, pid: number, group: HostMemoryEvents | null): HostMemoryEvents | null {
    const id = parseSandboxId(sandbox);
    if (id === undefined || this.#parts.open === null) return group;
    const { clock, residentBytes } = this.#parts;
    const watch = new VmmWatch({
      pid,
      group,
      clock,
      residentBytes,
      poll: () => this.#tracepoints.value?.poll(),
      counts: () => (this.#watches.get(id) === watch ? this.#tracepoints.value?.counts(id) : undefined),
      onEnd: () => this.#forget(id, watch),
    });
    // The sandbox's previous VMM has ended: the sandbox was paused to disk.
    this.#watches.get(id)?.end();
    this.#watches.set(id, watch);
    const tracepoints = this.#tracepoints.value;
    if (tracepoints !== undefined) this.#follow(id, watch, tracepoints);
    return watch;
  }

  metrics(): readonly Metric[] {
    const lost = (): { events: number; processes: number } =>
      this.#tracepoints.value?.loss() ?? { events: 0, processes: 0 };
    return [
      this.#kills,
      this.#execs,
      this.#exits,
      {
        type: 'histogram',
        unit: 'seconds',
        labels: [],
        name: 'neurovisor_vmm_reclaim_seconds',
        help: 'Waits of VMM threads for direct reclaim.',
        samples: () => histogramSamples({}, toPrometheus(this.#stalls())),
      },
      totalBy(
        'neurovisor_vmm_events_lost_total',
        'Events dropped because a buffer was full; processes that could not be traced.',
        ['what'],
        () => Object.entries(lost()).map(([what, count]) => [{ what }, count]),
      ),
      gauge(
        'neurovisor_vmms_followed',
        'Traced VMMs.',
        () => [...this.#watches.values()].filter(({ isFollowed }) => isFollowed).length,
      ),
    ];
  }

  close(): void {
    for (const watch of [...this.#watches.values()]) watch.end();
    this.#tracepoints[Symbol.dispose]();
  }

  #follow(id: SandboxId, watch: VmmWatch, tracepoints: VmmTracepoints): void {
    try {
      const isThere = tracepoints.watch(id, watch.pid);
      if (isThere) watch.isFollowed = !tracepoints.missing.includes(VICTIMS);
    } catch (error) {
      const fields = { sandbox: id, reason: describeError(error) };
      this.#parts.log.warn('the process of a VMM is not traced', fields);
    }
  }

  #take(event: ProcessEvent, sandbox: SandboxId | undefined): void {
    const watch = sandbox === undefined ? undefined : this.#watches.get(sandbox);
    if (event.kind === 'oom-victim') {
      this.#kills.add({ process: sandbox === undefined ? 'other' : 'vmm' });
    } else if (event.kind === 'exit') {
      this.#exits.add({ process: event.pid === watch?.pid ? 'vmm' : 'unknown' });
    } else if (event.kind === 'exec') {
      this.#execs.add({});
      const fields = { sandbox, pid: event.pid, program: event.comm };
      this.#parts.log.error('a VMM executed a program', fields);
    }
    watch?.take(event);
  }

  #forget(id: SandboxId, watch: VmmWatch): void {
    const tracepoints = this.#tracepoints.value;
    if (this.#watches.get(id) !== watch) return;
    const counts = tracepoints?.counts(id);
    if (counts !== undefined) this.#ended = sumHistograms([this.#ended, counts.stalls]);
    tracepoints?.forget(id);
    this.#watches.delete(id);
  }

  #stalls(): Histogram {
    const live = [...this.#watches.keys()].flatMap((id) => {
      const counts = this.#tracepoints.value?.counts(id);
      return counts === undefined ? [] : [counts.stalls];
    });
    return sumHistograms([this.#ended, ...live]);
  }
}

/** The tracepoint that reports victims of the OOM killer. */
const VICTIMS = 'mark_victim';

interface WatchParts {
  readonly pid: number;
  readonly group: HostMemoryEvents | null;
  readonly clock: Clock;
  residentBytes(pid: number): number | null;
  /** Calls `take` for waiting events. */
  poll(): void;
  counts(): SandboxCounts | undefined;
  onEnd(): void;
}

class VmmWatch implements HostMemoryEvents {
  readonly pid: number;
  /** Whether tracepoints report its OOM kills. */
  isFollowed = false;
  readonly #parts: WatchParts;
  readonly #reclaims: ReclaimMeter;
  readonly #listeners = new Listeners<HostMemoryEvent>();
  #stopGroup: () => void = () => undefined;
  #kills = 0;
  /** Number of kills that only the group has reported. */
  #killsByGroup = 0;
  #isOver = false;

  constructor(parts: WatchParts) {
    this.#parts = parts;
    this.pid = parts.pid;
    this.#reclaims = new ReclaimMeter();
  }

  listen(listener: (event: HostMemoryEvent) => void): () => void {
    const remove = this.#listeners.listen(listener);
    if (this.#listeners.size === 1)
      this.#stopGroup = this.#parts.group?.listen((event) => this.#fromGroup(event)) ?? this.#stopGroup;
    let isListening = true;
    return () => {
      if (!isListening) return;
      isListening = false;
      if (this.#listeners.size === 1) this.end();
      remove();
    };
  }

  oomKills(): number {
    return Math.max(this.#kills, this.#parts.group?.oomKills() ?? 0);
  }

  /** Reports waiting events first. Idempotent. */
  end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    // The tracepoint names the victim; the group only counts.
    this.#parts.poll();
    this.#stopGroup();
    this.#parts.onEnd();
  }

  take(event: ProcessEvent): void {
    switch (event.kind) {
      case 'oom-victim': {
        this.#kills += 1;
        const rssBytes = event.anonBytes + event.fileBytes + event.shmemBytes;
        // Before Linux 6.10 the kernel reports only the pid.
        const isKnown = rssBytes > 0;
        const victim = isKnown ? { pid: event.pid, name: event.comm, rssBytes } : null;
        const detail = `the host's OOM killer chose process ${event.pid} of the VMM`;
        this.#emit({ type: 'oom', victim, detail });
        return;
      }
      case 'exec': {
        const detail = `a process of the VMM (pid ${event.pid}) executed a program: ${event.comm}`;
        this.#emit({ type: 'security', what: 'vmm_exec', detail });
        return;
      }
      case 'reclaim-end':
        this.#noteReclaim();
        return;
      default:
    }
  }

  #noteReclaim(): void {
    const { clock, counts, residentBytes } = this.#parts;
    const some = this.#reclaims.note(counts()?.stalls.sumNs ?? 0, clock.now());
    const memoryBytes = residentBytes(this.pid) ?? 0;
    // A VMM that is ending has no memory left; earlier events say more.
    if (some === null || memoryBytes === 0) return;
    this.#emit({ type: 'pressure', memoryBytes, limitBytes: 0, some, full: 0 });
  }

  /** Reports a kill only if the tracepoints have not. */
  #fromGroup(event: HostMemoryEvent): void {
    if (event.type === 'oom' && this.isFollowed) {
      this.#parts.poll();
      const counted = this.#parts.group?.oomKills() ?? 0;
      if (counted <= this.#kills + this.#killsByGroup) return;
      this.#killsByGroup = counted - this.#kills;
    }
    this.#emit(event);
  }

  #emit(event: HostMemoryEvent): void {
    this.#listeners.emit(event);
  }
}
