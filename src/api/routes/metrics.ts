/** `/metrics`, where Prometheus looks for it, and what each sandbox uses now. */
import { z } from 'zod';
import { EXPOSITION_TYPE, type MetricRegistry } from '../../base/metrics.ts';
import type { SandboxLoads } from '../../sandbox/plane/load.ts';
import { type App, failures } from '../route.ts';
import { sandboxLoads } from '../schema/answers.ts';

/** Not below `/v1`: its names are the contract (docs/metrics.md). */
export const METRICS_PATH = '/metrics';

export function addMetricsRoute(app: App, registry: MetricRegistry): void {
  app.get(
    METRICS_PATH,
    {
      schema: {
        tags: ['host'],
        operationId: 'getMetrics',
        summary: 'All metrics, in the text format of Prometheus',
        response: {
          200: { description: 'Metrics.', content: { 'text/plain': { schema: z.string() } } },
          ...failures,
        },
      },
    },
    async (_request, reply) => {
      const text = await registry.text();
      // As it is: it is no JSON.
      return await reply
        .serializer((same) => same as string)
        .type(EXPOSITION_TYPE)
        .send(text);
    },
  );
}

export function addLoadRoute(app: App, loads: () => SandboxLoads): void {
  app.get(
    '/loads',
    {
      schema: {
        tags: ['host'],
        operationId: 'listLoads',
        summary: 'What each VM uses now, members of pools included',
        response: { 200: sandboxLoads, ...failures },
      },
    },
    () => loads(),
  );
}
