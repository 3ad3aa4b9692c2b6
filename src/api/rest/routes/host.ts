/** Host, snapshots and pools. */
import { z } from 'zod';
import { type ApiParts, type App, failures } from '../route.ts';
import { health, hostInfo, poolInfo, poolList, snapshotList } from '../schema/answers.ts';
import { snapshotParams } from '../schema/params.ts';
import { poolRequest } from '../schema/requests.ts';

export function addHostRoutes(app: App, { control }: ApiParts): void {
  app.get(
    '/health',
    {
      schema: {
        tags: ['host'],
        operationId: 'getHealth',
        summary: 'Check that the server answers; needs no key',
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
        summary: 'Get the host and its current load',
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
        summary: 'Get this OpenAPI document',
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
        summary: 'List all snapshots',
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
        description: 'Does not affect sandboxes that were started from it.',
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
        summary: 'List the pools of ready sandboxes',
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
        summary: 'Set the size of a pool',
        description: 'Builds the template first if it is missing, which takes up to a minute.',
        body: poolRequest,
        response: { 200: poolInfo, ...failures },
      },
    },
    ({ body: { spec, ...limits } }) => control.setPool(limits, spec),
  );
}
