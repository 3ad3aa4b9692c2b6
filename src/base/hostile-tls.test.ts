import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { connect, createServer, type TLSSocket, type TlsOptions } from 'node:tls';
import { expect, it, onTestFinished } from 'vitest';
import { makeAuthority } from '../../test/support/certificate-authority.ts';
import { HOSTILE_SERVER_TLS } from './hostile-tls.ts';

const OLD = { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' } as const;

/** Connects, and returns what client and server see, each once the connection is secured. */
async function meet(server: TlsOptions, client: object): Promise<readonly [TLSSocket, TLSSocket]> {
  const { cert, key } = await (await makeAuthority()).issue(['localhost']);
  const listener = createServer({ ...OLD, cert, key, ...server });
  listener.on('tlsClientError', () => undefined);
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const { port } = listener.address() as AddressInfo;
  const accepted = once(listener, 'secureConnection');
  const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false, ...client });
  onTestFinished(() => {
    socket.destroy();
    listener.close();
  });
  await once(socket, 'secureConnect');
  const [peer] = (await accepted) as [TLSSocket];
  onTestFinished(() => void peer.destroy());
  return [socket, peer];
}

it('HOSTILE_SERVER_TLS: a server can’t make a client compute in the server’s own Diffie-Hellman group', async () => {
  const ciphers = { ciphers: 'DHE-ECDSA-AES128-GCM-SHA256:DHE-RSA-AES128-GCM-SHA256:@SECLEVEL=0' };
  await expect(meet({ ...ciphers, dhparam: 'auto' }, HOSTILE_SERVER_TLS)).rejects.toThrow();
  expect(HOSTILE_SERVER_TLS.ciphers).toMatch(/:!DHE$/);
});

it('HOSTILE_SERVER_TLS: a server can’t start another handshake on a connection', async () => {
  const ask = (peer: TLSSocket): Promise<Error | null> =>
    new Promise((resolve) => {
      peer.once('error', resolve);
      peer.renegotiate({}, resolve);
    });
  const [, willing] = await meet({}, {});
  expect(await ask(willing)).toBeNull();
  const [, refused] = await meet({}, HOSTILE_SERVER_TLS);
  expect(await ask(refused)).toBeInstanceOf(Error);
});
