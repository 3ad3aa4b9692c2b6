/** Files of a sandbox as streams: nothing is held here, a slow side stops the other. */
import { Readable } from 'node:stream';
import { z } from 'zod';
import type { FileOptions } from '../../guest/guest.ts';
import { withIdleLimit } from '../body.ts';
import { type ApiParts, type App, clientGone, failures } from '../route.ts';
import { fileEntry, fileList } from '../schema/answers.ts';
import { fileListQuery, fileQuery, fileWriteQuery, idParams } from '../schema/requests.ts';

const tags = ['files'];
const content = z.custom<Readable>().meta({ type: 'string', format: 'binary' });

export function addFileRoutes(app: App, { control, clock }: ApiParts): void {
  // Whatever the type of a file's content is said to be, it is passed on as it is.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', (_request, payload, done) => done(null, payload));
  app.get(
    '/sandboxes/:id/files',
    {
      schema: {
        tags,
        operationId: 'readFile',
        summary: 'The content of a file',
        description: 'A connection that is cut off in the middle means that the rest is not known.',
        params: idParams,
        querystring: fileQuery,
        response: {
          200: {
            description: 'The content.',
            content: { 'application/octet-stream': { schema: content } },
          },
          ...failures,
        },
      },
    },
    async ({ params, query }, reply) => {
      const { files } = await control.guest(params.id);
      const stream = await files.read(query.path, fileOptions(query.user, clientGone(reply)));
      return await reply.type('application/octet-stream').send(stream);
    },
  );
  app.put(
    '/sandboxes/:id/files',
    {
      schema: {
        tags,
        operationId: 'writeFile',
        summary: 'Write a file: the body is its content',
        description:
          'The file is replaced at once when all has arrived; parent directories are made. ' +
          'The content may be of any length and type.',
        consumes: ['application/octet-stream'],
        params: idParams,
        querystring: fileWriteQuery,
        body: content,
        response: { 200: fileEntry, ...failures },
      },
    },
    async ({ params, query, body }, reply) => {
      const { path, user, mode } = query;
      const options = fileOptions(user, clientGone(reply));
      const { files } = await control.guest(params.id);
      const source = body instanceof Readable ? withIdleLimit(body, clock) : '';
      return await files.write(path, source, mode === undefined ? options : { ...options, mode });
    },
  );
  app.delete(
    '/sandboxes/:id/files',
    {
      schema: {
        tags,
        operationId: 'removeFile',
        summary: 'Remove a file, or a directory with all in it',
        params: idParams,
        querystring: fileQuery,
        response: { 204: z.null().describe('Removed.'), ...failures },
      },
    },
    async ({ params, query }, reply) => {
      const { files } = await control.guest(params.id);
      await files.remove(query.path, fileOptions(query.user, clientGone(reply)));
      return await reply.status(204).send(null);
    },
  );
  app.get(
    '/sandboxes/:id/files/list',
    {
      schema: {
        tags,
        operationId: 'listFiles',
        summary: 'The entries of a directory, in lexical order',
        params: idParams,
        querystring: fileListQuery,
        response: { 200: fileList, ...failures },
      },
    },
    async ({ params, query }, reply) => {
      const { path, user, depth = 1 } = query;
      const { files } = await control.guest(params.id);
      const options = fileOptions(user, clientGone(reply));
      return { entries: [...(await files.list(path, { ...options, depth }))] };
    },
  );
}

function fileOptions(user: string | undefined, signal: AbortSignal): FileOptions {
  return user === undefined ? { signal } : { user, signal };
}
