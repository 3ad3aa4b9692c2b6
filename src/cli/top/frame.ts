/** One frame of `neurovisor top`, computed from the daemon's answers. Pure. */
import { type BudgetState, budgetStates } from '../../base/request/model-limits.ts';
import { MIB } from '../../base/units.ts';
import type { HostInfo, SandboxInfo } from '../../sandbox/contract/control.ts';
import type { SandboxEventBody } from '../../sandbox/contract/events.ts';
import type { SandboxLoad, SandboxLoads } from '../../sandbox/plane/load.ts';
import { eventText } from '../output/event-text.ts';
import { bytes } from '../output/table.ts';
import { type Distribution, quantile, type Samples, since } from './samples.ts';

/** What `neurovisor top -o json` prints. Times of day in milliseconds since 1970. */
export interface TopFrame {
  readonly atMs: number;
  readonly daemon: Pick<HostInfo, 'version' | 'vmm' | 'upstream' | 'startedAtMs'>;
  readonly counts: Readonly<Record<string, number>>;
  readonly queue: { readonly waiting: number; readonly starting: number };
  readonly pool: {
    readonly ready: number;
    readonly starting: number;
    readonly target: number;
    readonly hits: number;
    readonly misses: number;
  };
  readonly memory: {
    readonly availableBytes: number;
    /** All VMMs, including their guests, without RAM that they share. */
    readonly vmmBytes: number;
    /** RAM that VMs share, counted once. */
    readonly sharedBytes: number;
    readonly pressure: SandboxLoads['memoryPressure'];
  };
  readonly models: {
    readonly inFlight: number;
    /** Since the start of the daemon. */
    readonly tokens: number;
    /** Null in the first frame: there is nothing to compare with. */
    readonly tokensPerSecond: number | null;
    readonly requestsPerSecond: number | null;
    /** Of model servers whose slots are known. */
    readonly queue: {
      readonly running: number;
      readonly waiting: number;
      /** Of the request that waits longest; 0: none waits. */
      readonly longestWaitMs: number;
    };
    /** Budgets that sandboxes share, in the windows of now. */
    readonly budgets: readonly {
      /** Null: all sandboxes of the host. */
      readonly tenant: string | null;
      readonly states: readonly BudgetState[];
    }[];
  };
  readonly channelBytesPerSecond: number | null;
  readonly latencies: readonly Latency[];
  readonly sandboxes: readonly SandboxRow[];
  /** Oldest first. */
  readonly events: readonly TopEvent[];
}

export interface Latency {
  readonly name: string;
  /** Time span of the values, ms; null: since the start of the daemon. */
  readonly windowMs: number | null;
  readonly count: number;
  /** Seconds; null: no value. */
  readonly p50: number | null;
  readonly p95: number | null;
  /** `le`: upper bound, seconds; null: above all others. */
  readonly buckets: readonly { readonly le: number | null; readonly count: number }[];
}

export interface SandboxRow {
  readonly id: string;
  readonly status: SandboxInfo['status'];
  /** State of the VM; null: no VM. */
  readonly phase: string | null;
  readonly origin: SandboxInfo['origin'] | 'waits';
  readonly cpus: number;
  readonly memoryMib: number;
  readonly memoryBytes: number | null;
  /** Memory use relative to the limit. */
  readonly pressure: Pressure;
  /** Most recent memory pressure or kill, if recent enough. */
  readonly shortage: Shortage | null;
  readonly modelRequests: number;
  readonly tokens: number;
  readonly tokensPerSecond: number | null;
  /** Its budget for models, in the window of now; forks share it. */
  readonly modelBudget: readonly BudgetState[];
  readonly ageMs: number;
}

export type Pressure = 'none' | 'high' | 'full';

/** `some`, `full`: percent of the last 10 s in which some and all programs stalled (PSI). */
export type Shortage =
  | { readonly type: 'pressure'; readonly some: number; readonly full: number }
  | { readonly type: 'near_oom' }
  | { readonly type: 'oom'; readonly victim: string };

export interface TopEvent {
  readonly atMs: number;
  readonly sandbox: string;
  /** `status`: the status changed. */
  readonly type: SandboxEventBody['type'] | 'status';
  readonly text: string;
}

/** The daemon's answers at one moment. */
export interface Scrape {
  readonly host: HostInfo;
  readonly list: readonly SandboxInfo[];
  readonly loads: SandboxLoads;
  readonly samples: Samples;
}

/** Earlier scrapes, for rates and latencies. */
export interface Before {
  /** The previous scrape, for rates; null: this is the first. */
  readonly last: Scrape | null;
  /** For latencies. */
  readonly oldest: Scrape | null;
}

/** A guest's caches fill its memory; above this, little can be reclaimed. */
const HIGH_RATIO = 0.9;
const FULL_RATIO = 0.98;
/** How long a report counts. */
const SHORTAGE_MS = { pressure: 15_000, near_oom: 30_000, oom: 60_000 } as const;
const EVENTS_MAX = 50;

const LATENCIES = {
  'asked → ready': 'neurovisor_vm_acquire_seconds',
  'VM start': 'neurovisor_vm_boot_seconds',
  'exec, files': 'neurovisor_operation_answer_seconds',
  'first token': 'neurovisor_time_to_first_token_seconds',
  'between tokens': 'neurovisor_inter_token_seconds',
} as const;

/** Packet latency by path, if measured (docs/observability.md). */
const NETWORK = 'neurovisor_network_latency_seconds';
const NETWORK_PATHS = { 'net to peer': 'peer', 'net to guest': 'guest' } as const;

/** @param changes observed status changes of sandboxes */
export function frameOf(now: Scrape, before: Before, changes: readonly TopEvent[]): TopFrame {
  const { host, loads, samples } = now;
  const { atMs } = loads;
  const { version, vmm, upstream, startedAtMs } = host;
  const rate = (name: string): number | null => ratePerSecond(now, before.last, name);
  const tokens = ['neurovisor_tokens_generated_total', 'neurovisor_tokens_prompt_total'] as const;
  const claims = (result: string): number => samples.sum('neurovisor_pool_claims_total', { result });
  return {
    atMs,
    daemon: { version, vmm, upstream, startedAtMs },
    counts: countsOf(now.list),
    queue: {
      waiting: samples.sum('neurovisor_start_queue_waiting', { kind: 'request' }),
      starting: samples.sum('neurovisor_starts_in_progress'),
    },
    pool: {
      ready: samples.sum('neurovisor_pool_warm_vms'),
      starting: samples.sum('neurovisor_pool_starting_vms'),
      target: samples.sum('neurovisor_pool_target_vms'),
      hits: claims('hit'),
      misses: claims('miss'),
    },
    memory: {
      availableBytes: host.memoryAvailableMib * MIB,
      vmmBytes: loads.sandboxes.reduce((sum, one) => sum + (one.memoryBytes ?? 0), 0),
      sharedBytes: loads.sharedMemoryBytes ?? 0,
      pressure: loads.memoryPressure,
    },
    models: {
      inFlight: samples.sum('neurovisor_requests_in_flight'),
      tokens: samples.sum(tokens[0]) + samples.sum(tokens[1]),
      tokensPerSecond: rate(tokens[0]),
      requestsPerSecond: rate('neurovisor_requests_total'),
      queue: {
        running: samples.sum('neurovisor_model_queue_running'),
        waiting: samples.sum('neurovisor_model_queue_waiting'),
        longestWaitMs: 1000 * samples.sum('neurovisor_model_queue_longest_wait_seconds'),
      },
      budgets: host.modelBudgets.map(({ tenant, limits, used }) => ({
        tenant,
        states: budgetStates(limits, used, atMs),
      })),
    },
    channelBytesPerSecond: rate('neurovisor_channel_bytes_total'),
    latencies: latenciesOf(now, before.oldest),
    sandboxes: rowsOf(now, before.last),
    events: eventsOf(loads, changes),
  };
}

/** An end that both report appears once, with its cause. */
function eventsOf({ events }: SandboxLoads, changes: readonly TopEvent[]): readonly TopEvent[] {
  const reported = events.map((event) => {
    const { atMs, sandbox, type } = event;
    return { atMs, sandbox, type, text: shortText(event) };
  });
  const ended = new Set(reported.filter(({ type }) => type === 'end').map(({ sandbox }) => sandbox));
  const others = changes.filter(({ type, sandbox }) => type !== 'end' || !ended.has(sandbox));
  return [...reported, ...others].sort((a, b) => a.atMs - b.atMs).slice(-EVENTS_MAX);
}

/** As `neurovisor events`, but short. */
function shortText(event: SandboxEventBody): string {
  if (event.type !== 'pressure' && event.type !== 'near_oom') return eventText(event);
  const amount = `${bytes(event.memoryBytes)} of ${bytes(event.limitBytes)} (${event.source})`;
  if (event.type === 'near_oom') return amount;
  return `some ${Math.round(event.some)}%, full ${Math.round(event.full)}%, ${amount}`;
}

function countsOf(list: readonly SandboxInfo[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { status } of list) counts[status] = (counts[status] ?? 0) + 1;
  return counts;
}

function ratePerSecond(now: Scrape, last: Scrape | null, name: string): number | null {
  if (last === null || now.loads.atMs <= last.loads.atMs) return null;
  const more = now.samples.sum(name) - last.samples.sum(name);
  return (Math.max(0, more) * 1000) / (now.loads.atMs - last.loads.atMs);
}

function latenciesOf(now: Scrape, oldest: Scrape | null): readonly Latency[] {
  const always = Object.entries(LATENCIES).map(([name, metric]) =>
    latencyOf(name, now, oldest, (samples) => samples.distribution(metric)),
  );
  const network = Object.entries(NETWORK_PATHS).map(([name, path]) =>
    latencyOf(name, now, oldest, (samples) => samples.distribution(NETWORK, { path })),
  );
  return [...always, ...network.filter(({ count }) => count > 0)];
}

/** Latency of the last minute if it has values, otherwise since the start. */
function latencyOf(name: string, now: Scrape, oldest: Scrape | null, of: (samples: Samples) => Distribution): Latency {
  const all = of(now.samples);
  const recent = oldest === null ? null : since(all, of(oldest.samples));
  const isRecent = recent !== null && recent.count > 0;
  const shown = isRecent ? recent : all;
  return {
    name,
    windowMs: isRecent && oldest !== null ? now.loads.atMs - oldest.loads.atMs : null,
    count: shown.count,
    p50: quantile(shown, 0.5),
    p95: quantile(shown, 0.95),
    buckets: shown.buckets.map(({ le, count }) => ({ le: Number.isFinite(le) ? le : null, count })),
  };
}

function rowsOf(now: Scrape, last: Scrape | null): readonly SandboxRow[] {
  const loads = new Map(now.loads.sandboxes.map((load) => [load.id, load]));
  const before = new Map(last?.loads.sandboxes.map(({ id, tokens }) => [id, tokens]));
  const seconds = last === null ? 0 : (now.loads.atMs - last.loads.atMs) / 1000;
  return now.list.map((info) => {
    const { id, status, origin, cpus, memoryMib, createdAtMs, models, modelUse } = info;
    const load = loads.get(id);
    const tokens = load?.tokens ?? 0;
    const known = before.get(id);
    const memoryBytes = load?.memoryBytes ?? null;
    return {
      id,
      status,
      origin,
      cpus,
      memoryMib,
      memoryBytes,
      tokens,
      phase: load?.state ?? null,
      pressure: pressureOf(memoryBytes, memoryMib),
      shortage: load === undefined ? null : shortageOf(load, now.loads.atMs),
      modelRequests: load?.modelRequests ?? 0,
      modelBudget: budgetStates(models.budget, modelUse.used, now.loads.atMs),
      tokensPerSecond: known === undefined || seconds <= 0 ? null : Math.max(0, tokens - known) / seconds,
      ageMs: Math.max(0, now.loads.atMs - createdAtMs),
    };
  });
}

function pressureOf(memoryBytes: number | null, memoryMib: number): Pressure {
  const ratio = memoryBytes === null ? 0 : memoryBytes / (memoryMib * MIB);
  if (ratio >= FULL_RATIO) return 'full';
  return ratio >= HIGH_RATIO ? 'high' : 'none';
}

/** The newer of kill and pressure, except that pressure around a kill belongs to the kill. */
function shortageOf({ lastPressure, lastOom }: SandboxLoad, nowMs: number): Shortage | null {
  const pressure =
    lastPressure !== null && nowMs - lastPressure.atMs <= SHORTAGE_MS[lastPressure.type] ? lastPressure : null;
  const isKilled = lastOom !== null && nowMs - lastOom.atMs <= SHORTAGE_MS.oom;
  if (isKilled && (pressure?.atMs ?? 0) <= lastOom.atMs + SHORTAGE_MS.pressure) {
    return { type: 'oom', victim: lastOom.victim?.name ?? 'a process' };
  }
  if (pressure?.type !== 'pressure') return pressure === null ? null : { type: 'near_oom' };
  return { type: 'pressure', some: pressure.some, full: pressure.full };
}
