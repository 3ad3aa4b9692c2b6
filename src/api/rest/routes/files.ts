/** Files of a sandbox as streams. Nothing is buffered here; a slow side slows the other down. */
import { Readable } from 'node:stream';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import { MIB } from '../../../base/units.ts';
import type { FileEntry, FileOptions } from '../../../machine/guest/guest.ts';
import { BusyError } from '../../../sandbox/contract/errors.ts';
import type { AnswerBuffer, AnswerMemory } from '../answer-buffer.ts';
import { withIdleLimit } from '../body.ts';
import { API_LIMITS } from '../limits.ts';
import { type ApiParts, type App, clientGone, failures, whenClosed } from '../route.ts';
import { fileEntry, fileList } from '../schema/guest-answers.ts';
import { fileListQuery, fileQuery, fileWriteQuery, idParams } from '../schema/params.ts';
import { Slots } from '../slots.ts';

const tags = ['files'];
/** A guest's listing has 8 MiB; its text here may be longer by other escapes. */
const LIST_ANSWER_BYTES_MAX = 16 * MIB;
const content = z.custom<Readable>().meta({ type: 'string', format: 'binary' });

type FileRouteParts = ApiParts & { readonly memory: AnswerMemory };

export function addFileRoutes(app: App, parts: FileRouteParts): void {
  // File content passes through unchanged, whatever its Content-Type.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', (_request, payload, done) => done(null, payload));
  addContentRoutes(app, parts);
  addListRoute(app, parts);
}

function addContentRoutes(app: App, { control, clock }: ApiParts): void {
  app.get(
    '/sandboxes/:id/files',
    {
      schema: {
        tags,
        operationId: 'readFile',
        summary: 'Read a file',
        description: 'If the connection breaks before the end, the content is incomplete.',
        params: idParams,
        querystring: fileQuery,
        response: {
          200: { description: 'Content of the file.', content: { 'application/octet-stream': { schema: content } } },
          ...failures,
        },
      },
    },
    async ({ params, query }, reply) => {
      const gone = clientGone(reply);
      const { files } = await control.reader(params.id, gone);
      const stream = await files.read(query.path, fileOptions(query.user, gone));
      return await reply.type('application/octet-stream').send(stream);
    },
  );
  app.put(
    '/sandboxes/:id/files',
    {
      schema: {
        tags,
        operationId: 'writeFile',
        summary: 'Write a file; the body is its content',
        description:
          'Replaces the file atomically once all of it has arrived, and creates parent directories. ' +
          'Any length and type.',
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
        summary: 'Remove a file, or a directory with its contents',
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
}

function addListRoute(app: App, { control, memory }: FileRouteParts): void {
  const listings = new Slots('listings', API_LIMITS.listingsMax, API_LIMITS.listingsPerSandboxMax);
  app.get(
    '/sandboxes/:id/files/list',
    {
      schema: {
        tags,
        operationId: 'listFiles',
        summary: 'List a directory in lexical order',
        params: idParams,
        querystring: fileListQuery,
        response: { 200: fileList, ...failures },
      },
    },
    async ({ params, query }, reply) => {
      const { path, user, depth = 1 } = query;
      const options = fileOptions(user, clientGone(reply));
      const giveBack = listings.take(params.id);
      const answer = memory.buffer(params.id, LIST_ANSWER_BYTES_MAX);
      whenClosed(reply.raw, () => answer.release());
      try {
        const { files } = await control.reader(params.id, options.signal);
        await collectEntries(files.entries(path, { ...options, depth }), answer);
      } finally {
        giveBack();
      }
      // Bytes are sent unchanged; only the document uses their schema.
      const bytes: FastifyReply = reply;
      return await bytes.type('application/json; charset=utf-8').send(answer.content());
    },
  );
}

/**
 * Keeps text instead of objects, which would take several times as much.
 * @throws BusyError if the answers of all sandboxes use up their memory
 */
async function collectEntries(entries: AsyncIterable<FileEntry>, answer: AnswerBuffer): Promise<void> {
  const append = (text: string): void => {
    const part = Buffer.from(text);
    if (answer.append(part) < part.length)
      throw new BusyError('the memory for answers is in use', API_LIMITS.retryAfterMs);
  };
  let separator = '';
  append('{"entries":[');
  for await (const entry of entries) {
    append(`${separator}${JSON.stringify(entry)}`);
    separator = ',';
  }
  append(']}');
}

function fileOptions(user: string | undefined, signal: AbortSignal): FileOptions {
  return user === undefined ? { signal } : { user, signal };
}
