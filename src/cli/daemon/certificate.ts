/** The certificate of the daemon's port, in files that others renew. */
import { readFile } from 'node:fs/promises';
import { createSecureContext } from 'node:tls';
import type { Certificate } from '../../api/rest/listener.ts';
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { UsageError } from '../failure.ts';

export interface CertificateFiles {
  readonly certPath: string;
  readonly keyPath: string;
}

/** How soon a renewed certificate is used, milliseconds. */
export const RENEWAL_MS = 60_000;

/** @throws UsageError a file is missing, or they do not belong together */
export async function readCertificate({ certPath, keyPath }: CertificateFiles): Promise<Certificate> {
  try {
    const [cert, key] = await Promise.all([readFile(certPath, 'utf8'), readFile(keyPath, 'utf8')]);
    createSecureContext({ cert, key });
    return { cert, key };
  } catch (error) {
    throw new UsageError(
      `--tls-cert ${certPath}, --tls-key ${keyPath}: ${describeError(error)}`,
      'give a certificate (with its chain) and its private key, both in PEM and without a passphrase',
    );
  }
}

/**
 * Reads the files again every minute, and keeps the old certificate while the new one is not valid.
 * @param used what the listener has: the files may have changed since, while the daemon started
 * @returns stops it
 */
export function followCertificate(
  files: CertificateFiles,
  used: Certificate,
  { clock, log }: { readonly clock: Clock; readonly log: Log },
  use: (certificate: Certificate) => void,
): () => void {
  let stop = (): void => undefined;
  let isStopped = false;
  let known = used;
  const look = async (): Promise<void> => {
    try {
      const now = await readCertificate(files);
      if (now.cert !== known.cert || now.key !== known.key) {
        use(now);
        known = now;
        log.info('the certificate was read again', { ...files });
      }
    } catch (error) {
      log.warn('the certificate stays, since the new one can not be used', { error: describeError(error) });
    }
    if (!isStopped) stop = clock.after(RENEWAL_MS, () => void look());
  };
  void look();
  return () => {
    isStopped = true;
    stop();
  };
}
