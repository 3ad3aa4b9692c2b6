/** Uploads as `multipart/form-data`: one part for each file, whose name is the path unless the query has one. */
import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { Busboy, type BusboyHeaders } from '@fastify/busboy';
import type { FileEntry } from '../../guest/guest.ts';
import { E2bError } from '../errors.ts';

type Write = (path: string, content: AsyncIterable<Uint8Array>) => Promise<FileEntry>;

const FILES_MAX = 1000;

/**
 * Writes one file after the other, as their parts come.
 * @param path of the only file; null: each part names its own
 * @throws E2bError 400; what `write` throws
 */
export async function writeParts(
  request: IncomingMessage,
  path: string | null,
  write: Write,
): Promise<readonly FileEntry[]> {
  const written: Promise<FileEntry>[] = [];
  const failed = Promise.withResolvers<never>();
  const parser = parserOf(request);
  parser.on('file', (_field: string, content: Readable, name: string) => {
    const to = path ?? name;
    if (to === undefined || to === '') {
      failed.reject(
        new E2bError(400, 'a part has no file name, and the parameter path is missing'),
      );
      content.resume();
      return;
    }
    const one = write(to, content);
    one.catch((error: unknown) => failed.reject(error));
    written.push(one);
  });
  parser.on('filesLimit', () => {
    failed.reject(new E2bError(400, `more than ${FILES_MAX} files in one request`));
  });
  try {
    await Promise.race([pipeline(request, parser), failed.promise]);
    return await Promise.race([Promise.all(written), failed.promise]);
  } catch (error) {
    request.unpipe(parser);
    throw isOfParser(error) ? new E2bError(400, error.message, { cause: error }) : error;
  }
}

function parserOf({ headers }: IncomingMessage): InstanceType<typeof Busboy> {
  try {
    const limits = { files: FILES_MAX };
    return new Busboy({ headers: headers as BusboyHeaders, preservePath: true, limits });
  } catch (error) {
    throw new E2bError(400, 'the multipart body has no boundary', { cause: error });
  }
}

const isOfParser = (error: unknown): error is Error =>
  error instanceof Error && /multipart|part header/i.test(error.message);
