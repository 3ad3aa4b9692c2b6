/** `GET` and `POST /files` of E2B's envd: content of files, streamed both ways. */
import { pipeline } from 'node:stream/promises';
import { withIdleLimit } from '../../api/body.ts';
import type { FileEntry } from '../../guest/guest.ts';
import { E2bError } from '../errors.ts';
import type { E2bParts } from '../parts.ts';
import { type Call, goneSignal } from './call.ts';
import { writeParts } from './multipart.ts';

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
  const { path, user } = fileQuery(call.request.url ?? '');
  if (path === null || path === '') throw new E2bError(400, 'the parameter path is missing');
  const { files } = await call.guest();
  const options = { ...(user === undefined ? {} : { user }), signal: goneSignal(call) };
  const content = await files.read(path, options);
  call.response.writeHead(200, { 'content-type': 'application/octet-stream' });
  await pipeline(content, call.response);
}

/** Answers with what was written. @throws E2bError; GuestError */
export async function upload(call: Call, { clock }: Pick<E2bParts, 'clock'>): Promise<void> {
  const { request, response } = call;
  const { path, user } = fileQuery(request.url ?? '');
  const type = request.headers['content-type'] ?? '';
  const { files } = await call.guest();
  const options = { ...(user === undefined ? {} : { user }), signal: goneSignal(call) };
  const write = async (to: string, content: AsyncIterable<Uint8Array>): Promise<FileEntry> =>
    await files.write(to, content, options);
  let written: readonly FileEntry[];
  if (type.startsWith('multipart/form-data')) {
    written = await writeParts(request, path, write);
  } else if (type.startsWith('application/octet-stream')) {
    if (path === null || path === '') throw new E2bError(400, 'the parameter path is missing');
    written = [await write(path, withIdleLimit(request, clock))];
  } else {
    throw new E2bError(415, `the content type ${type.slice(0, 80)} is not supported`);
  }
  const view = written.map((entry) => ({ name: entry.name, path: entry.path, type: 'file' }));
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(view));
}
