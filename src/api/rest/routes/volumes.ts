/** Volumes: disks that outlive sandboxes. */
import { z } from 'zod';
import { DEFAULTS, RANGES } from '../../../sandbox/contract/limits.ts';
import { volumeName, whole } from '../../../sandbox/contract/schema/values.ts';
import { type ApiParts, type App, failures } from '../route.ts';
import { volumeInfo, volumeList } from '../schema/answers.ts';
import { volumeParams } from '../schema/params.ts';

const tags = ['volumes'];

const volumeRequest = z
  .strictObject({
    name: volumeName,
    sizeMib: whole(RANGES.diskMib)
      .optional()
      .describe(`What fits into it, MiB, file system included. Default ${DEFAULTS.diskMib}.`),
  })
  .meta({ id: 'VolumeRequest' });

export function addVolumeRoutes(app: App, { control }: ApiParts): void {
  app.get(
    '/volumes',
    {
      schema: {
        tags,
        operationId: 'listVolumes',
        summary: 'List all volumes by name',
        response: { 200: volumeList, ...failures },
      },
    },
    async () => ({ volumes: [...(await control.volumes())] }),
  );
  app.post(
    '/volumes',
    {
      schema: {
        tags,
        operationId: 'createVolume',
        summary: 'Create an empty volume',
        body: volumeRequest,
        response: { 201: volumeInfo, ...failures },
      },
    },
    async ({ body }, reply) => await reply.status(201).send(await control.createVolume(body)),
  );
  app.delete(
    '/volumes/:volume',
    {
      schema: {
        tags,
        operationId: 'removeVolume',
        summary: 'Remove a volume with its files; refused while a sandbox has it',
        params: volumeParams,
        response: { 204: z.null().describe('Removed.'), ...failures },
      },
    },
    async ({ params }, reply) => {
      await control.removeVolume(params.volume);
      return await reply.status(204).send(null);
    },
  );
}
