import { setImmediate as tick } from 'node:timers/promises';
import { expect, it } from 'vitest';
import type { FileEntry } from '../../guest/guest.ts';
import { writeParts } from './multipart.ts';

it('writes one file after the other, whole and in order', async () => {
  const count = 200;
  const parts = Array.from(
    { length: count },
    (_, n) =>
      `--b\r\ncontent-disposition: form-data; name="file"; filename="/f${n}"\r\n\r\ncontent ${n}\r\n`,
  );
  async function* body(): AsyncGenerator<Buffer> {
    yield Buffer.from(`${parts.join('')}--b--\r\n`);
  }
  const written: string[] = [];
  let running = 0;
  let most = 0;
  const write = async (path: string, content: AsyncIterable<Uint8Array>): Promise<FileEntry> => {
    running += 1;
    most = Math.max(most, running);
    let text = '';
    for await (const part of content) text += Buffer.from(part).toString();
    await tick();
    written.push(`${path} ${text}`);
    running -= 1;
    return { path } as FileEntry;
  };
  const headers = { 'content-type': 'multipart/form-data; boundary=b' };
  const entries = await writeParts(headers, body(), null, write);
  expect(entries.map(({ path }) => path)).toEqual(parts.map((_, n) => `/f${n}`));
  expect(written).toEqual(parts.map((_, n) => `/f${n} content ${n}`));
  expect(most).toBe(1);
});
