/** The host, its snapshots and its pools. */
import { z } from 'zod';
import { type ApiParts, type App, failures } from '../route.ts';
import { health, hostInfo, poolInfo, poolList, snapshotList } from '../schema/answers.ts';
import { poolRequest, snapshotParams } from '../schema/requests.ts';

export function addHostRoutes(app: App, { control }: ApiParts): void {
  app.get(
    '/health',
    {
      schema: {
        tags: ['host'],
        operationId: 'getHealth',
        summary: 'Whether the server answers; needs no key',
        security: [],
        response: { 200: health, ...failures },
      },
    },
    () => ({ status: 'ok' as const }),
  );
  app.get(
    '/host',
    {
      schema: {
        tags: ['host'],
        operationId: 'getHost',
        summary: 'The host and what it carries now',
        response: { 200: hostInfo, ...failures },
      },
    },
    () => control.host(),
  );
  app.get(
    '/openapi.json',
    {
      schema: {
        tags: ['host'],
        operationId: 'getOpenapi',
        summary: 'This description',
        response: { 200: z.looseObject({}), ...failures },
      },
    },
    () => ({ ...app.swagger() }),
  );
}

export function addSnapshotRoutes(app: App, { control }: ApiParts): void {
  app.get(
    '/snapshots',
    {
      schema: {
        tags: ['snapshots'],
        operationId: 'listSnapshots',
        summary: 'All snapshots',
        response: { 200: snapshotList, ...failures },
      },
    },
    async () => ({ snapshots: [...(await control.snapshots())] }),
  );
  app.delete(
    '/snapshots/:snapshot',
    {
      schema: {
        tags: ['snapshots'],
        operationId: 'removeSnapshot',
        summary: 'Remove a snapshot',
        description: 'Sandboxes that started from it are not touched.',
        params: snapshotParams,
        response: { 204: z.null().describe('Removed.'), ...failures },
      },
    },
    async ({ params }, reply) => {
      await control.removeSnapshot(params.snapshot);
      return await reply.status(204).send(null);
    },
  );
}

export function addPoolRoutes(app: App, { control }: ApiParts): void {
  app.get(
    '/pools',
    {
      schema: {
        tags: ['pools'],
        operationId: 'listPools',
        summary: 'The pools of sandboxes that wait to be handed out',
        response: { 200: poolList, ...failures },
      },
    },
    async () => ({ pools: [...(await control.pools())] }),
  );
  app.put(
    '/pools',
    {
      schema: {
        tags: ['pools'],
        operationId: 'setPool',
        summary: 'Set how many sandboxes of a size wait',
        description: 'Its template is built first if need be, which takes up to a minute.',
        body: poolRequest,
        response: { 200: poolInfo, ...failures },
      },
    },
    ({ body: { spec, ...limits } }) => control.setPool(limits, spec),
  );
}
