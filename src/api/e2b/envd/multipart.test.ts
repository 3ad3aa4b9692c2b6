import { setImmediate as tick } from 'node:timers/promises';
import { expect, it } from 'vitest';
import type { FileEntry } from '../../../machine/guest/guest.ts';
import { writeParts } from './multipart.ts';

it('writes one file after the other, whole and in order', async () => {
  const count = 200;
  const parts = Array.from(
    { length: count },
    (_, n) => `--b\r\ncontent-disposition: form-data; name="file"; filename="/f${n}"\r\n\r\ncontent ${n}\r\n`,
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

it('reads no more than a few pieces ahead of a guest that does not read', async () => {
  const part = (n: number): Buffer =>
    Buffer.from(`--b\r\ncontent-disposition: form-data; name="file"; filename="/f${n}"\r\n\r\n${'x'.repeat(8192)}\r\n`);
  let pieces = 0;
  async function* body(): AsyncGenerator<Buffer> {
    for (; pieces < 500; pieces += 1) yield part(pieces);
    yield Buffer.from('--b--\r\n');
  }
  const stop = Promise.withResolvers<never>();
  const headers = { 'content-type': 'multipart/form-data; boundary=b' };
  const upload = writeParts(headers, body(), null, async () => await stop.promise);
  for (let turn = 0; turn < 2000; turn += 1) await tick();
  expect(pieces).toBeLessThan(10);
  stop.reject(new Error('enough'));
  await expect(upload).rejects.toThrow('enough');
});
