/** Volumes of E2B's clients. */
import { z } from 'zod';
import type { VolumeInfo } from '../../../sandbox/contract/control.ts';
import type { App } from '../../rest/route.ts';
import { E2bError } from '../errors.ts';
import type { E2bParts } from '../parts.ts';
import { failures, newVolume, nothing, volumeAndToken, volumeAnswer, volumeParams } from './schema.ts';

const tags = ['volumes'];

export function addVolumeRoutes(app: App, { control, tokens }: Pick<E2bParts, 'control' | 'tokens'>): void {
  const find = async (id: string): Promise<VolumeInfo> => {
    const found = (await control.volumes()).find((one) => one.id === id);
    if (found === undefined) throw new E2bError(404, `there is no volume ${JSON.stringify(id)}`);
    return found;
  };
  const view = ({ id, name }: VolumeInfo) => ({ volumeID: id, name, token: tokens.volume(id) });
  app.get(
    '/volumes',
    { schema: { tags, operationId: 'listVolumes', response: { 200: z.array(volumeAnswer), ...failures } } },
    async () => (await control.volumes()).map(({ id, name }) => ({ volumeID: id, name })),
  );
  app.post(
    '/volumes',
    {
      schema: {
        tags,
        operationId: 'createVolume',
        description: '409: another volume has the name.',
        body: newVolume,
        response: { 201: volumeAndToken, ...failures },
      },
    },
    async ({ body }, reply) => await reply.status(201).send(view(await control.createVolume({ name: body.name }))),
  );
  app.get(
    '/volumes/:volumeID',
    {
      schema: { tags, operationId: 'getVolume', params: volumeParams, response: { 200: volumeAndToken, ...failures } },
    },
    async ({ params }) => view(await find(params.volumeID)),
  );
  app.delete(
    '/volumes/:volumeID',
    {
      schema: {
        tags,
        operationId: 'deleteVolume',
        description: '409: a sandbox has it.',
        params: volumeParams,
        response: { 204: nothing, ...failures },
      },
    },
    async ({ params }, reply) => {
      await control.removeVolume((await find(params.volumeID)).id);
      return await reply.status(204).send(null);
    },
  );
}
