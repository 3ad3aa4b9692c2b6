/** TLS settings for a process that all tenants share and a server that may be hostile. */
import { constants } from 'node:crypto';
import { DEFAULT_CIPHERS } from 'node:tls';

/**
 * Disables work that a server could order at will: a Diffie-Hellman group of its own (one secret of 8,192 bits takes
 * 0.2 s), and repeated handshakes on the same connection (SSL_CTX_set_options(3)).
 */
export const HOSTILE_SERVER_TLS = {
  minVersion: 'TLSv1.2',
  ciphers: `${DEFAULT_CIPHERS}:!DHE`,
  secureOptions: constants.SSL_OP_NO_RENEGOTIATION,
} as const;
