/** `GET` and `POST /files` of E2B's envd: content of files, streamed both ways. */
import type { IncomingHttpHeaders } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip, createGzip } from 'node:zlib';
import { describeError } from '../../../base/errors.ts';
import type { FileEntry, GuestFiles, OpenFile } from '../../../machine/guest/guest.ts';
import { withIdleLimit } from '../../rest/body.ts';
import { isGuestError } from '../../rest/errors.ts';
import { clientGone } from '../../rest/route.ts';
import { E2bError } from '../errors.ts';
import { E2B_LIMITS } from '../limits.ts';
import type { E2bParts } from '../parts.ts';
import { type Call, fileUser } from './call.ts';
import { isUnknownUser } from './failures.ts';
import { writeParts } from './multipart.ts';
import { type ByteRange, isUnchanged, rangeOf } from './range.ts';

export interface FileQuery {
  readonly path: string | null;
  readonly user: string | undefined;
}

export function fileQuery(url: string): FileQuery {
  const query = new URLSearchParams(url.split('?', 2)[1] ?? '');
  return { path: query.get('path'), user: query.get('username') ?? undefined };
}

/** @throws E2bError; GuestError */
export async function download(call: Call): Promise<void> {
  const { request, response } = call;
  const { path, user } = fileQuery(request.url ?? '');
  if (path === null || path === '') throw new E2bError(400, 'the parameter path is missing');
  const { files } = await call.reader();
  const options = { ...fileUser(user), signal: clientGone({ raw: call.response }) };
  const whole = await opened(files, path, options);
  const modified = new Date(whole.modifiedMs).toUTCString();
  const base = { 'content-type': 'application/octet-stream', 'last-modified': modified, vary: 'Accept-Encoding' };
  if (isUnchanged(request.headers, whole.modifiedMs)) {
    whole.content.destroy();
    response.writeHead(304, base).end();
    return;
  }
  const range = rangeOf(request.headers, whole);
  if (range !== null) {
    whole.content.destroy();
    if (range === 'unsatisfiable') {
      response.setHeader('content-range', `bytes */${whole.bytes}`);
      throw new E2bError(416, 'the range is outside of the file');
    }
    const { offset, length } = range;
    const part = await opened(files, path, { ...options, offset, bytesMax: length });
    response.writeHead(206, { ...base, ...rangeHeaders(range, whole.bytes) });
    let sent = 0;
    const content = async function* (): AsyncGenerator<Buffer> {
      for await (const bytes of part.content as AsyncIterable<Buffer>) {
        sent += bytes.length;
        yield bytes;
      }
    };
    await pipeline(content, response, { end: false });
    // The file has become shorter, and the client would wait for the rest.
    if (sent < length) response.destroy();
    else response.end();
    return;
  }
  if (wantsGzip(request.headers)) {
    response.writeHead(200, { ...base, 'content-encoding': 'gzip' });
    await pipeline(whole.content, createGzip(), response);
    return;
  }
  await sendWhole(call, whole, { ...base, 'accept-ranges': 'bytes' });
}

async function opened(
  files: Pick<GuestFiles, 'open'>,
  path: string,
  options: Parameters<GuestFiles['open']>[1],
): Promise<OpenFile> {
  try {
    return await files.open(path, options);
  } catch (error) {
    if (isGuestError(error) && error.code === 'not_found' && !isUnknownUser(error)) {
      throw new E2bError(404, `path '${path}' does not exist`, { cause: error });
    }
    throw error;
  }
}

const rangeHeaders = ({ offset, length }: ByteRange, bytes: number): Record<string, string> => ({
  'content-length': String(length),
  'content-range': `bytes ${offset}-${offset + length - 1}/${bytes}`,
});

/**
 * Sends `Content-Length` only if all content is already here: for kernel files (/proc, /sys) and growing files, the
 * size differs from the length of the content.
 */
async function sendWhole(
  { response }: Call,
  { content }: OpenFile,
  headers: Readonly<Record<string, string>>,
): Promise<void> {
  const parts: Buffer[] = [];
  let bytes = 0;
  const source = content[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  for (;;) {
    const next = await source.next();
    if (next.done === true) {
      response.writeHead(200, { ...headers, 'content-length': bytes });
      response.end(Buffer.concat(parts));
      return;
    }
    parts.push(next.value);
    bytes += next.value.length;
    if (bytes >= E2B_LIMITS.peekBytes) break;
  }
  response.writeHead(200, headers);
  await pipeline(async function* () {
    yield* parts;
    for (let next = await source.next(); next.done !== true; next = await source.next()) {
      yield next.value;
    }
  }, response);
}

/** The clients always declare that they can decode it; only `gzip` alone is a choice. */
const wantsGzip = (headers: IncomingHttpHeaders): boolean =>
  headers['accept-encoding']?.toString().trim().toLowerCase() === 'gzip';

/** Answers with the written files. @throws E2bError; GuestError */
export async function upload(call: Call, { clock }: Pick<E2bParts, 'clock'>): Promise<void> {
  const { request, response } = call;
  const { path, user } = fileQuery(request.url ?? '');
  const type = request.headers['content-type'] ?? '';
  const metadata = metadataOf(request.headers);
  const { files } = await call.guest();
  // If one part fails, a running write must not wait for content that never arrives.
  const stop = new AbortController();
  const signal = AbortSignal.any([clientGone({ raw: call.response }), stop.signal]);
  const options = { ...fileUser(user), metadata, signal };
  const write = async (to: string, content: AsyncIterable<Uint8Array>): Promise<FileEntry> =>
    await files.write(to, content, options);
  let written: readonly FileEntry[];
  try {
    const body = withIdleLimit(request, clock);
    if (type.startsWith('multipart/form-data')) {
      written = await writeParts(request.headers, body, path, write);
    } else if (type.startsWith('application/octet-stream')) {
      if (path === null || path === '') throw new E2bError(400, 'the parameter path is missing');
      written = [await write(path, decoded(request.headers, body))];
    } else {
      throw new E2bError(415, `the content type ${type.slice(0, 80)} is not supported`);
    }
  } catch (error) {
    stop.abort(error);
    throw error;
  }
  const view = written.map((entry) => ({
    name: entry.name,
    path: entry.path,
    type: 'file',
    ...(entry.metadata === undefined ? {} : { metadata: entry.metadata }),
  }));
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(view));
}

/**
 * Decompressed as it arrives, so a small body that becomes a large file costs the sandbox's disk and no memory here.
 */
function decoded(headers: IncomingHttpHeaders, body: AsyncIterable<Buffer>): AsyncIterable<Uint8Array> {
  const encoding = headers['content-encoding'] ?? 'identity';
  if (encoding === 'identity') return body;
  if (encoding !== 'gzip') {
    throw new E2bError(415, `the content encoding ${encoding.slice(0, 80)} is not supported`);
  }
  return gunzipped(body);
}

async function* gunzipped(body: AsyncIterable<Buffer>): AsyncGenerator<Uint8Array> {
  const source = Readable.from(body);
  const unpacked = createGunzip();
  // The source's error must reach the reader, and vice versa.
  const piping = pipeline(source, unpacked);
  piping.catch((error: unknown) => unpacked.destroy(error as Error));
  try {
    for await (const part of unpacked) yield part as Uint8Array;
    await piping;
  } catch (error) {
    if (!isOfZlib(error)) throw error;
    throw new E2bError(400, `the gzip content is not valid: ${describeError(error)}`, { cause: error });
  }
}

const isOfZlib = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && String(error.code).startsWith('Z_');

const METADATA = 'x-metadata-';

/** `X-Metadata-KEY: VALUE`. Node.js lowercases the names. @throws E2bError */
function metadataOf(headers: IncomingHttpHeaders): Record<string, string> {
  const found: Record<string, string> = {};
  for (const [name, value] of Object.entries(headers)) {
    if (!name.startsWith(METADATA) || name.length === METADATA.length) continue;
    found[name.slice(METADATA.length)] = String(value);
  }
  return found;
}
