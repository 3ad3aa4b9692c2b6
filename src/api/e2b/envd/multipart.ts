/** Uploads as `multipart/form-data`: one part for each file, whose name is the path unless the query has one. */
import type { IncomingHttpHeaders } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { Busboy, type BusboyHeaders } from '@fastify/busboy';
import { ignore } from '../../../base/ignore.ts';
import type { FileEntry } from '../../../machine/guest/guest.ts';
import { E2bError } from '../errors.ts';
import { E2B_LIMITS } from '../limits.ts';

type Write = (path: string, content: AsyncIterable<Uint8Array>) => Promise<FileEntry>;

/**
 * Writes one file after the other, as their parts arrive.
 * @param path of the only file; `null` if each part names its own
 * @throws E2bError 400; errors of `write` and `body`. Writes may then still wait for their content: end them
 */
export async function writeParts(
  headers: IncomingHttpHeaders,
  body: AsyncIterable<Buffer>,
  path: string | null,
  write: Write,
): Promise<readonly FileEntry[]> {
  const written: Promise<FileEntry>[] = [];
  let last: Promise<unknown> = Promise.resolve();
  let earlier: Promise<unknown> = last;
  const failed = Promise.withResolvers<never>();
  const parser = parserOf(headers);
  parser.on('file', (field: string, content: Readable, name: string) => {
    // Busboy only emits the error: a later reader would take the rest for the whole file, and without a listener the
    // process would end.
    content.on('error', (error) => content.destroy(error));
    const to = path ?? name;
    if (field !== 'file' || to === undefined || to === '') {
      const what = field === 'file' ? 'has no file name, and the parameter path is missing' : '';
      if (what !== '') failed.reject(new E2bError(400, `a part ${what}`));
      content.resume();
      return;
    }
    if (path !== null && written.length > 0) {
      failed.reject(new E2bError(400, 'the parameter path names one file, and there are more'));
      content.resume();
      return;
    }
    // One after the other, since a guest serves a limited number of operations at once.
    earlier = last;
    const one = last.then(() => write(to, content));
    last = one;
    one.catch((error: unknown) => failed.reject(error));
    written.push(one);
  });
  parser.on('error', (error) => ignore(error, 'the pipeline below has it, if it still runs'));
  parser.on('filesLimit', () => {
    failed.reject(new E2bError(400, `more than ${E2B_LIMITS.filesMax} files in one request`));
  });
  // Reading pauses while whole parts wait for the guest: a thousand of them would be in memory at once.
  const inTurn = async function* (): AsyncGenerator<Buffer> {
    for await (const piece of body) {
      yield piece;
      await earlier;
    }
  };
  const source = Readable.from(inTurn());
  try {
    await Promise.race([pipeline(source, parser), failed.promise]);
    return await Promise.race([Promise.all(written), failed.promise]);
  } catch (error) {
    source.destroy();
    throw isOfParser(error) ? new E2bError(400, error.message, { cause: error }) : error;
  }
}

function parserOf(headers: IncomingHttpHeaders): InstanceType<typeof Busboy> {
  try {
    const limits = { files: E2B_LIMITS.filesMax, fields: 0 };
    return new Busboy({ headers: headers as BusboyHeaders, preservePath: true, limits });
  } catch (error) {
    throw new E2bError(400, 'the multipart body has no boundary', { cause: error });
  }
}

const isOfParser = (error: unknown): error is Error =>
  error instanceof Error && /multipart|part header|Unexpected end/i.test(error.message);
