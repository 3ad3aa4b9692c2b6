/** TLS to a program in a sandbox that serves HTTPS itself. */
import type { Duplex } from 'node:stream';
import { connect } from 'node:tls';
import { HOSTILE_SERVER_TLS } from '../../../base/hostile-tls.ts';
import { ignore } from '../../../base/ignore.ts';

/**
 * Accepts any certificate, as E2B does: the channel to the sandbox authenticates the program, and nothing is in
 * between.
 * @param plain closed with the connection
 */
export function withTls(plain: Duplex): Duplex {
  const secured = connect({
    ...HOSTILE_SERVER_TLS,
    socket: plain,
    rejectUnauthorized: false,
    ALPNProtocols: ['http/1.1'],
  });
  secured.on('error', (error) => ignore(error, 'reported by the request on it'));
  secured.once('close', () => plain.destroy());
  return secured;
}
