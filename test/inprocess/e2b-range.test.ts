/** A file that shrinks between the requests for its size and for its content. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import { expect, it } from 'vitest';
import type { Call } from '../../src/api/e2b/envd/call.ts';
import { download } from '../../src/api/e2b/envd/files.ts';

it('truncates the answer, so that its client does not wait for the rest', async () => {
  const open = async () => ({ bytes: 10, modifiedMs: 0, content: Readable.from([Buffer.from('ab')]) });
  const server = createServer((request, response) => {
    const reader = async () => ({ files: { open } });
    void download({ request, response, reader } as unknown as Call);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  try {
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/files?path=a`;
    const answer = await fetch(url, { headers: { range: 'bytes=0-4' } });
    await expect(answer.text()).rejects.toThrow('terminated');
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});
