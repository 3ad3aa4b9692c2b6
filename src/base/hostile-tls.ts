/** TLS to a server that may be hostile, by a process that all tenants share. */
import { constants } from 'node:crypto';
import { DEFAULT_CIPHERS } from 'node:tls';

/**
 * Without the work that a server could order at will: a Diffie-Hellman group of its own (one secret of 8,192 bits takes
 * 0.2 s), and one handshake after another on the same connection (SSL_CTX_set_options(3)).
 */
export const HOSTILE_SERVER_TLS = {
  minVersion: 'TLSv1.2',
  ciphers: `${DEFAULT_CIPHERS}:!DHE`,
  secureOptions: constants.SSL_OP_NO_RENEGOTIATION,
} as const;
