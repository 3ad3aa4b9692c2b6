/**
 * Metrics of sandboxes, as their guests report them. A guest is asked when a client asks, at most once a second;
 * earlier answers are the history.
 */
import type { z } from 'zod';
import { z as zod } from 'zod';
import { describeError } from '../../../base/errors.ts';
import type { GuestStats } from '../../../machine/guest/guest.ts';
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import type { App } from '../../rest/route.ts';
import { E2B_LIMITS } from '../limits.ts';
import type { E2bParts } from '../parts.ts';
import { guestStats } from './health.ts';
import { present } from './present.ts';
import { failures, idParams, manyMetricsAnswer, manyMetricsQuery, metricAnswer, metricsQuery } from './schema.ts';
import { stateOf } from './view.ts';

type Metric = z.input<typeof metricAnswer>;

interface Sample {
  readonly stats: GuestStats;
  readonly metric: Metric;
  /** Monotonic: the wall clock may be set back. */
  readonly askedMs: number;
}

const tags = ['metrics'];

export function addMetricsRoutes(app: App, parts: E2bParts): void {
  const history = new MetricsHistory(parts);
  app.addHook('onClose', async () => history[Symbol.dispose]());
  app.get(
    '/sandboxes/:sandboxID/metrics',
    {
      schema: {
        tags,
        operationId: 'getSandboxMetrics',
        description: 'Asks the guest now. Earlier entries are those of earlier requests. `memCache` is not known: 0.',
        params: idParams,
        querystring: metricsQuery,
        response: { 200: zod.array(metricAnswer), ...failures },
      },
    },
    async ({ params, query }) => {
      const { start = 0, end = Number.POSITIVE_INFINITY } = query;
      const all = await history.of(await present(parts, params.sandboxID));
      return all.filter(({ timestampUnix: at }) => at >= start && at <= end);
    },
  );
  app.get(
    '/sandboxes/metrics',
    {
      schema: {
        tags,
        operationId: 'listSandboxMetrics',
        description: 'The newest of each; sandboxes that do not run are left out.',
        querystring: manyMetricsQuery,
        response: { 200: manyMetricsAnswer, ...failures },
      },
    },
    async ({ query }) => {
      const wanted = new Set(query.sandbox_ids);
      const all = (await parts.control.list()).filter(({ id }) => wanted.has(id));
      const newest = await Promise.all(
        all
          .filter((info) => stateOf(info) === 'running')
          .map(async (info) => [info.id, (await history.of(info)).at(-1)] as const),
      );
      return { sandboxes: Object.fromEntries(newest.filter(hasMetric)) };
    },
  );
}

const hasMetric = (entry: readonly [string, Metric | undefined]): entry is readonly [string, Metric] =>
  entry[1] !== undefined;

export class MetricsHistory implements Disposable {
  readonly #parts: E2bParts;
  /** By sandbox, oldest first. */
  readonly #samples = new Map<string, Sample[]>();
  /** Running queries of guests; concurrent requests share an answer. */
  readonly #asking = new Map<string, Promise<void>>();
  readonly #stop: () => void;

  constructor(parts: E2bParts) {
    this.#parts = parts;
    this.#stop = parts.control.onChange(({ id, status }) => {
      if (status === 'ended') this.#samples.delete(id);
    });
  }

  /** Includes a new sample if the sandbox runs and its guest answers. */
  async of({ id, status }: SandboxInfo): Promise<readonly Metric[]> {
    const last = this.#samples.get(id)?.at(-1);
    const now = this.#parts.clock.now();
    const isNew = last !== undefined && now - last.askedMs < E2B_LIMITS.metricsIntervalMs;
    if (status === 'running' && !isNew) {
      const asking = this.#asking.get(id) ?? this.#sample(id);
      this.#asking.set(id, asking);
      await asking;
    }
    return (this.#samples.get(id) ?? []).map(({ metric }) => metric);
  }

  /** Never rejects. */
  async #sample(id: string): Promise<void> {
    const { clock, log } = this.#parts;
    try {
      const stats = await guestStats(this.#parts, id);
      const samples = this.#samples.get(id) ?? [];
      const metric = metricOf(stats, samples.at(-1)?.stats, clock.wall());
      samples.push({ stats, metric, askedMs: clock.now() });
      if (samples.length > E2B_LIMITS.metricsMax) samples.shift();
      this.#samples.set(id, samples);
    } catch (error) {
      log.debug('metrics: the guest did not answer', { sandbox: id, reason: describeError(error) });
    } finally {
      this.#asking.delete(id);
    }
  }

  [Symbol.dispose](): void {
    this.#stop();
  }
}

/** @param before an earlier sample; CPU usage is measured since then, or since the boot without one */
export function metricOf(stats: GuestStats, before: GuestStats | undefined, atMs: number): Metric {
  const { cpuCount, memoryTotalBytes, memoryAvailableBytes, diskTotalBytes, diskFreeBytes } = stats;
  // Counters of another VM of the sandbox restart at 0.
  const since = before !== undefined && before.uptimeMs < stats.uptimeMs ? before : undefined;
  const busyMs = stats.cpuBusyMs - (since?.cpuBusyMs ?? 0);
  const cpuMs = (stats.uptimeMs - (since?.uptimeMs ?? 0)) * cpuCount;
  const share = cpuMs > 0 ? Math.min(1, Math.max(0, busyMs / cpuMs)) : 0;
  return {
    timestamp: new Date(atMs).toISOString(),
    timestampUnix: Math.floor(atMs / 1000),
    cpuCount,
    cpuUsedPct: Math.round(share * 10_000) / 100,
    memUsed: Math.max(0, memoryTotalBytes - memoryAvailableBytes),
    memTotal: memoryTotalBytes,
    memCache: 0,
    diskUsed: Math.max(0, diskTotalBytes - diskFreeBytes),
    diskTotal: diskTotalBytes,
  };
}
