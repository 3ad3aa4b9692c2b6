/** Measures the packet latency of one sandbox for a limited time, whichever process owns the sandbox. */
import { join } from 'node:path';
import { sleep, systemClock } from '../../base/clock.ts';
import type { Home } from '../../base/home.ts';
import { ignore } from '../../base/ignore.ts';
import { Links } from '../../egress/net/link/links.ts';
import { boundsNs, type Histogram, quantileNs } from '../../machine/observe/histogram.ts';
import { latencySince, type Path, type TapLatency, type Times } from '../../machine/observe/latency.ts';
import { type Ingress, openLatencyProbes, readLatencyOf } from '../../machine/observe/probes.ts';

/** An internet address; its route names the uplink. Nothing is sent there. */
export const INTERNET = '1.1.1.1';

export interface PathReport {
  readonly started: number;
  readonly answered: number;
  readonly repeated: number;
  readonly failed: number;
  /** Packets beyond the tracking limit; the others are a sample. */
  readonly skipped: number;
  readonly unanswered: number;
  /** `null` if no packet was answered. */
  readonly p50Ns: number | null;
  readonly p95Ns: number | null;
  readonly p99Ns: number | null;
  /** From the first to the last bucket in use. */
  readonly buckets: readonly { readonly fromNs: number; readonly toNs: number; readonly count: number }[];
}

export interface LatencyReport {
  readonly interface: string;
  /**
   * The hook for the guest's frames; `other process` if another process measures already, whose probes are then read.
   */
  readonly ingress: Ingress | 'other process';
  /** The uplink; `null` if this host has no route to the internet, or its kernel is older than 6.6. */
  readonly uplink: string | null;
  readonly seconds: number;
  readonly framesOut: number;
  readonly framesIn: number;
  readonly unreadable: number;
  /** True if more packets were outstanding than can be tracked. */
  readonly mayBeIncomplete: boolean;
  readonly paths: Readonly<Record<Path, PathReport>>;
}

export interface MeasureOptions {
  readonly home: Pick<Home, 'cacheDir'>;
  readonly interfaceName: string;
  readonly durationMs: number;
  readonly stop: AbortSignal;
}

/** Leaves nothing in the kernel. Returns undefined if the interface does not exist. @throws ObserveError, LinkError */
export async function measureLatency(options: MeasureOptions): Promise<LatencyReport | undefined> {
  const { home, interfaceName, durationMs, stop } = options;
  using links = new Links();
  const link = links.find(interfaceName);
  if (link === undefined) return undefined;
  using stack = new DisposableStack();
  const uplinkIndex = links.routeTo(INTERNET)?.linkIndex;
  const { ingress, read, seesUplink } = readerOf(link.index) ?? (await probesOf(home, stack, link.index, uplinkIndex));
  const before = read();
  const begunMs = systemClock.now();
  try {
    await sleep(durationMs, stop);
  } catch (error) {
    if (!stop.aborted) throw error;
    ignore(error, 'the measurement was ended early');
  }
  const isSeen = uplinkIndex !== undefined && seesUplink;
  const uplink = isSeen ? links.find(uplinkIndex) : undefined;
  return {
    interface: interfaceName,
    ingress,
    uplink: uplink?.name ?? null,
    seconds: (systemClock.now() - begunMs) / 1000,
    ...reportOf(latencySince(read(), before)),
  };
}

interface Reader {
  readonly ingress: LatencyReport['ingress'];
  readonly seesUplink: boolean;
  read(): TapLatency;
}

/** A reader of the probes that another process (a daemon) already has on this link; undefined if there is none. */
function readerOf(linkIndex: number): Reader | undefined {
  let last = readLatencyOf(linkIndex);
  if (last === undefined) return undefined;
  const read = (): TapLatency => {
    // The sandbox or that process may have ended.
    last = readLatencyOf(linkIndex) ?? last;
    return last as TapLatency;
  };
  return { ingress: 'other process', seesUplink: true, read };
}

async function probesOf(
  home: Pick<Home, 'cacheDir'>,
  stack: DisposableStack,
  linkIndex: number,
  uplinkIndex: number | undefined,
): Promise<Reader> {
  const probes = stack.use(await openLatencyProbes({ dir: bpfDir(home) }));
  const probe = stack.use(await probes.watchTap(linkIndex));
  const seesUplink = uplinkIndex !== undefined && (await probes.watchUplink(uplinkIndex));
  return { ingress: probe.ingress, seesUplink, read: () => probe.read() };
}

export function bpfDir({ cacheDir }: Pick<Home, 'cacheDir'>): string {
  return join(cacheDir, 'bpf');
}

function reportOf({ framesOut, framesIn, unreadable, mayBeIncomplete, paths }: TapLatency) {
  const { guest, peer, forward } = paths;
  return {
    framesOut,
    framesIn,
    unreadable,
    mayBeIncomplete,
    paths: { guest: pathReport(guest), peer: pathReport(peer), forward: pathReport(forward) },
  };
}

function pathReport(times: Times): PathReport {
  const { started, answered, repeated, failed, skipped, unanswered } = times;
  const quantile = (fraction: number): number | null => quantileNs(times, fraction) ?? null;
  return {
    started,
    answered,
    repeated,
    failed,
    skipped,
    unanswered,
    p50Ns: quantile(0.5),
    p95Ns: quantile(0.95),
    p99Ns: quantile(0.99),
    buckets: usedBuckets(times),
  };
}

function usedBuckets({ buckets }: Histogram): PathReport['buckets'] {
  const first = buckets.findIndex((count) => count > 0);
  const last = buckets.findLastIndex((count) => count > 0);
  return buckets.slice(Math.max(first, 0), last + 1).map((count, index) => {
    const { from, to } = boundsNs(first + index);
    return { fromNs: from, toNs: to, count };
  });
}
