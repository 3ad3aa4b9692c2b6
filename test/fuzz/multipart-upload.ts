/** Uploads of files: the same ones however the body is cut, and a refusal with a status of the client's. */

import { writeParts } from '../../src/api/e2b/envd/multipart.ts';
import { E2bError } from '../../src/api/e2b/errors.ts';
import type { FileEntry } from '../../src/machine/guest/guest.ts';
import { pieces } from './cuts.ts';
import { must, target } from './target.ts';

const HEADERS = { 'content-type': 'multipart/form-data; boundary=B' };
const part = (name: string, content: string): string =>
  `--B\r\nContent-Disposition: form-data; name="file"; filename="${name}"\r\n\r\n${content}\r\n`;

export const multipartUpload = target(
  'multipart-upload',
  async (bytes) => {
    const whole = await upload([bytes]);
    must((await upload(pieces(bytes))) === whole, `cut matters: ${whole}`);
  },
  {
    maxBytes: 1000,
    seeds: [
      `${part('/home/user/a.txt', 'content')}--B--\r\n`,
      `${part('a', '1')}${part('../b', '--B')}--B--`,
      '--B\r\nContent-Disposition: form-data; name="other"\r\n\r\nx\r\n--B--\r\n',
      part('cut', 'content'),
    ],
  },
);

async function upload(parts: readonly Buffer[]): Promise<string> {
  const files: string[] = [];
  const write = async (path: string, content: AsyncIterable<Uint8Array>): Promise<FileEntry> => {
    const all: Uint8Array[] = [];
    for await (const piece of content) all.push(piece);
    files.push(`${path}: ${Buffer.concat(all).toString('base64')}`);
    return { path } as FileEntry;
  };
  try {
    const written = await writeParts(HEADERS, streamOf(parts), null, write);
    must(written.length === files.length, 'a file is missing');
    return JSON.stringify(files.toSorted());
  } catch (error) {
    must(error instanceof E2bError && error.status === 400, `not a refusal: ${error}`);
    // Which files were complete before the fault is seen is left open.
    return 'refused';
  }
}

async function* streamOf(parts: readonly Buffer[]): AsyncGenerator<Buffer> {
  for (const one of parts) {
    await Promise.resolve();
    yield one;
  }
}
