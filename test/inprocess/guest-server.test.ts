/** The HTTP end for guests, which the inference bridge and the package gateway share. */
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { expect, it } from 'vitest';
import { closeServer, guestServer, isAnswerable, listenPrivately } from '../../src/base/http/guest-server.ts';

const LIMITS = {
  connectionsMax: 4,
  requestHeaderBytesMax: 1000,
  requestHeadersMax: 3,
  headersTimeoutMs: 1000,
  idleConnectionTimeoutMs: 1000,
};

it('guestServer: a private socket, bounded heads, one field more than allowed, and a close that ends connections', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'nv-guest-'));
  try {
    const path = join(dir, 'v');
    const errors: (string | boolean)[] = [];
    const server = guestServer(LIMITS, 2000, (request, response) => response.end(`${request.rawHeaders.length / 2}`));
    server.on('clientError', (error, socket) => {
      errors.push(Reflect.get(error, 'code'), isAnswerable(error, socket));
      socket.destroy();
    });
    await listenPrivately(server, path, () => undefined);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    await expect(
      listenPrivately(
        guestServer(LIMITS, 2000, () => undefined),
        path,
        () => undefined,
      ),
    ).rejects.toThrow();
    const send = (bytes: string) => {
      const socket = connect(path);
      socket.write(bytes);
      return socket;
    };
    const fields = `Connection: close\r\nHost: x\r\n${'A: b\r\n'.repeat(2)}`;
    expect(await text(send(`GET / HTTP/1.1\r\n${fields}\r\n`))).toMatch(/\r\n\r\n4$/);
    await text(send(`GET / HTTP/1.1\r\nHost: x\r\nA: ${'b'.repeat(2000)}\r\n\r\n`));
    expect(errors).toEqual(['HPE_HEADER_OVERFLOW', true]);
    const idle = send('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
    await new Promise((resolve) => idle.once('data', resolve));
    await closeServer(server);
    await text(idle);
  } finally {
    await rm(dir, { recursive: true });
  }
});
