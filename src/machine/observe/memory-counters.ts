/**
 * Reads the memory files of a control group and derives events. Pure.
 *
 *     v2   memory.current, .max, .stat, .events (high, max, oom_kill), .pressure        cgroup-v2.rst
 *     v1   memory.usage_in_bytes, .limit_in_bytes, .stat, .failcnt, .oom_control       cgroup-v1/memory.rst
 */

/** Reads a file of the group; `null` if it does not exist. */
export type ReadFile = (name: string) => string | null;

interface MemorySample {
  readonly memoryBytes: number;
  /** The OOM limit; 0 if none. */
  readonly limitBytes: number;
  readonly reclaimableBytes: number;
  /** How often a limit was reached. */
  readonly hits: number;
  readonly oomKills: number;
  /** Percent of the last 10 s in which some or all tasks stalled (PSI); 0 if not available. */
  readonly some: number;
  readonly full: number;
}

/** Current, peak and maximum memory of a group, bytes. */
export interface GroupMemory {
  readonly currentBytes: number;
  /** v2 before Linux 5.19 has no peak: then the current value. */
  readonly peakBytes: number;
  /** 0: no limit. */
  readonly limitBytes: number;
}

/** `null` if it is no memory group, or was removed. */
export function readGroupMemory(read: ReadFile): GroupMemory | null {
  const v2 = numberIn(read('memory.current'));
  const currentBytes = v2 ?? numberIn(read('memory.usage_in_bytes'));
  if (currentBytes === null) return null;
  const [peak, max] =
    v2 === null ? ['memory.max_usage_in_bytes', 'memory.limit_in_bytes'] : ['memory.peak', 'memory.max'];
  const peakBytes = Math.max(currentBytes, numberIn(read(peak)) ?? 0);
  return { currentBytes, peakBytes, limitBytes: limit(read(max)) };
}

/** Memory that a group leaves its processes. */
export interface GroupRoom {
  readonly limitBytes: number;
  /** Memory below the limit plus cached files, of which recently used ones count half. */
  readonly availableBytes: number;
}

/** Share of recently used cached files that counts as available: programs need the rest to continue. */
const ACTIVE_SHARE = 1 / 2;

/**
 * `null` without a limit, or if it is no memory group or was removed. The kernel moves pages from the active to the
 * inactive list only when it reclaims, at the limit. So active files can't count as used, as in kubelet's working set:
 * a program that stays away from the limit would never see them as free (kubernetes/kubernetes#43916).
 */
export function readGroupRoom(read: ReadFile): GroupRoom | null {
  const v2 = numberIn(read('memory.current'));
  const limits = v2 === null ? ['memory.limit_in_bytes'] : ['memory.max', 'memory.high'];
  const set = limits.map((name) => limit(read(name))).filter((bytes) => bytes > 0);
  const currentBytes = v2 ?? numberIn(read('memory.usage_in_bytes'));
  if (set.length === 0 || currentBytes === null) return null;
  const limitBytes = Math.min(...set);
  // In v1, only the names with `total_` include the groups below.
  const stat = pairs(read('memory.stat'));
  const prefix = v2 === null ? 'total_' : '';
  const inactive = of(stat, `${prefix}inactive_file`);
  const active = of(stat, `${prefix}active_file`);
  const used = currentBytes - inactive - active * ACTIVE_SHARE;
  return { limitBytes, availableBytes: Math.max(0, limitBytes - used) };
}

/** The same events as a guest's. */
export type CgroupMemoryEvent =
  | {
      readonly type: 'pressure';
      readonly memoryBytes: number;
      readonly limitBytes: number;
      readonly some: number;
      readonly full: number;
    }
  | { readonly type: 'near_oom'; readonly memoryBytes: number; readonly limitBytes: number }
  | { readonly type: 'oom'; readonly victim: null; readonly detail: string };

/** `null` if it is no memory group, or was removed. */
export function readSample(read: ReadFile): MemorySample | null {
  return read('memory.events') === null ? sampleOfV1(read) : sampleOfV2(read);
}

function sampleOfV2(read: ReadFile): MemorySample | null {
  const memoryBytes = numberIn(read('memory.current'));
  if (memoryBytes === null) return null;
  const events = pairs(read('memory.events'));
  const stat = pairs(read('memory.stat'));
  const stalls = read('memory.pressure') ?? '';
  return {
    memoryBytes,
    limitBytes: limit(read('memory.max')),
    reclaimableBytes: Math.max(0, of(stat, 'file') - of(stat, 'shmem')),
    hits: of(events, 'high') + of(events, 'max'),
    // A group kill counts each victim once, and the group once.
    oomKills: of(events, 'oom_kill'),
    some: average(stalls, 'some'),
    full: average(stalls, 'full'),
  };
}

function sampleOfV1(read: ReadFile): MemorySample | null {
  const memoryBytes = numberIn(read('memory.usage_in_bytes'));
  if (memoryBytes === null) return null;
  const stat = pairs(read('memory.stat'));
  return {
    memoryBytes,
    limitBytes: limit(read('memory.limit_in_bytes')),
    reclaimableBytes: Math.max(0, of(stat, 'cache') - of(stat, 'shmem')),
    hits: numberIn(read('memory.failcnt')) ?? 0,
    oomKills: of(pairs(read('memory.oom_control')), 'oom_kill'),
    some: 0,
    full: 0,
  };
}

/** Share of the limit in unreclaimable memory. */
const NEAR_OOM_FRACTION = 0.95;
/** Time until a lasting state is reported again, milliseconds. */
const REPEAT_MS = 5000;

/** Derives events from successive samples of one group. */
export class MemoryJudge {
  #before: MemorySample | null = null;
  #nearAtMs = Number.NEGATIVE_INFINITY;

  /** @param nowMs monotonic */
  take(sample: MemorySample, nowMs: number): readonly CgroupMemoryEvent[] {
    const before = this.#before ?? { ...sample, oomKills: 0 };
    this.#before = sample;
    const { memoryBytes, limitBytes, some, full } = sample;
    const events: CgroupMemoryEvent[] = [];
    const stuck = memoryBytes - sample.reclaimableBytes;
    if (limitBytes === 0 || stuck < limitBytes * NEAR_OOM_FRACTION) {
      this.#nearAtMs = Number.NEGATIVE_INFINITY;
    } else if (nowMs - this.#nearAtMs >= REPEAT_MS) {
      this.#nearAtMs = nowMs;
      events.push({ type: 'near_oom', memoryBytes, limitBytes });
    }
    if (sample.hits > before.hits) {
      events.push({ type: 'pressure', memoryBytes, limitBytes, some, full });
    }
    if (sample.oomKills > before.oomKills) {
      const detail = 'the OOM killer killed a process of the VMM';
      events.push({ type: 'oom', victim: null, detail });
    }
    return events;
  }
}

/** Parses `name value` lines. */
function pairs(text: string | null): ReadonlyMap<string, number> {
  const lines = (text ?? '').split('\n').map((line) => line.split(' '));
  return new Map(lines.map(([name = '', value]) => [name, numberIn(value ?? null) ?? 0]));
}

const of = (values: ReadonlyMap<string, number>, name: string): number => values.get(name) ?? 0;

function numberIn(text: string | null): number | null {
  const value = text === null || text.trim() === '' ? Number.NaN : Number(text);
  return Number.isFinite(value) && value >= 0 ? value : null;
}

/** Without a limit v2 has `max`, v1 the largest possible number. */
function limit(text: string | null): number {
  const value = numberIn(text) ?? 0;
  return value > Number.MAX_SAFE_INTEGER ? 0 : value;
}

function average(stalls: string, kind: 'some' | 'full'): number {
  const found = new RegExp(`^${kind} avg10=([0-9.]+)`, 'm').exec(stalls)?.[1];
  return Math.min(100, Number(found ?? 0) || 0);
}
