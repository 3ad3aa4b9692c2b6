/** `/metrics` for Prometheus, and the current load of each sandbox. */
import { z } from 'zod';
import { EXPOSITION_TYPE, type MetricRegistry } from '../../../base/metrics.ts';
import type { SandboxLoads } from '../../../sandbox/plane/load.ts';
import { type App, failures } from '../route.ts';
import { sandboxLoads } from '../schema/loads.ts';

/** Not below `/v1`: the metric names are the contract (docs/metrics.md). */
export const METRICS_PATH = '/metrics';

export function addMetricsRoute(app: App, registry: MetricRegistry): void {
  app.get(
    METRICS_PATH,
    {
      schema: {
        tags: ['host'],
        operationId: 'getMetrics',
        summary: 'Get all metrics in the Prometheus text format',
        response: { 200: { description: 'Metrics.', content: { 'text/plain': { schema: z.string() } } }, ...failures },
      },
    },
    async (_request, reply) => {
      const text = await registry.text();
      // The default serializer would write JSON.
      return await reply
        .serializer((same) => same as string)
        .type(EXPOSITION_TYPE)
        .send(text);
    },
  );
}

export function addLoadRoute(app: App, loads: () => Promise<SandboxLoads>): void {
  app.get(
    '/loads',
    {
      schema: {
        tags: ['host'],
        operationId: 'listLoads',
        summary: 'List the current load of each VM, including pool members',
        response: { 200: sandboxLoads, ...failures },
      },
    },
    () => loads(),
  );
}
