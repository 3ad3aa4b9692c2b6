/** Secrets that outlive sandboxes. No response has a value. */
import { z } from 'zod';
import { RANGES } from '../../../sandbox/contract/limits.ts';
import { storedSecret, text } from '../../../sandbox/contract/schema/values.ts';
import { type ApiParts, type App, failures } from '../route.ts';
import { storedSecretInfo, storedSecretList } from '../schema/answers.ts';
import { flag } from '../schema/params.ts';

const tags = ['secrets'];
const value = text(RANGES.secretCharacters.max).describe(
  `${RANGES.secretCharacters.min} to ${RANGES.secretCharacters.max} visible ASCII characters. Encrypted on disk and never returned.`,
);
const createBody = z.strictObject({ name: storedSecret, value }).meta({ id: 'StoredSecretRequest' });
const replaceBody = z.strictObject({ value }).meta({ id: 'StoredSecretValue' });
const params = z.strictObject({ secret: storedSecret });
const removal = z.strictObject({
  force: flag.optional().describe('`true`: even if sandboxes use it. Default `false`.'),
});

export function addSecretRoutes(app: App, { control }: ApiParts): void {
  app.get(
    '/secrets',
    {
      schema: {
        tags,
        operationId: 'listSecrets',
        summary: 'List all stored secrets by name, without values',
        response: { 200: storedSecretList, ...failures },
      },
    },
    async () => ({ secrets: [...(await control.secrets.list())] }),
  );
  app.post(
    '/secrets',
    {
      schema: {
        tags,
        operationId: 'createSecret',
        summary: 'Store a secret',
        body: createBody,
        response: { 201: storedSecretInfo, ...failures },
      },
    },
    async ({ body }, reply) => await reply.status(201).send(await control.secrets.set(body)),
  );
  app.put(
    '/secrets/:secret',
    {
      schema: {
        tags,
        operationId: 'replaceSecret',
        summary: 'Store a secret, or replace its value; running sandboxes use it from their next request',
        params,
        body: replaceBody,
        response: { 200: storedSecretInfo, ...failures },
      },
    },
    async ({ params: { secret: name }, body }) => await control.secrets.set({ name, ...body, replace: true }),
  );
  app.delete(
    '/secrets/:secret',
    {
      schema: {
        tags,
        operationId: 'removeSecret',
        summary: 'Remove a stored secret; refused while a sandbox uses it, unless forced',
        params,
        querystring: removal,
        response: { 204: z.null().describe('Removed.'), ...failures },
      },
    },
    async ({ params: { secret }, query }, reply) => {
      await control.secrets.remove(secret, query.force);
      return await reply.status(204).send(null);
    },
  );
}
