/** A certificate authority for a test, and server certificates for names, wildcards included. */
import 'reflect-metadata';
import { isIP } from 'node:net';
import * as x509 from '@peculiar/x509';

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const DAY_MS = 24 * 3600 * 1000;

export interface Authority {
  /** PEM, for clients that trust it. */
  readonly cert: string;
  /** @param names of DNS, or IPv4 addresses @param times default: valid now */
  issue(
    names: readonly string[],
    times?: { readonly notBefore: Date; readonly notAfter: Date },
  ): Promise<{ readonly cert: string; readonly key: string }>;
}

export async function makeAuthority(): Promise<Authority> {
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const times = { notBefore: new Date(Date.now() - DAY_MS), notAfter: new Date(Date.now() + DAY_MS) };
  const root = await x509.X509CertificateGenerator.createSelfSigned({
    name: 'CN=Authority of a test',
    ...times,
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign, true),
    ],
  });
  let serial = 1;
  return {
    cert: root.toString('pem'),
    async issue(names, ownTimes = times) {
      const own = await crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
      serial += 1;
      const leaf = await x509.X509CertificateGenerator.create({
        subject: `CN=${names[0] ?? 'server'}`,
        issuer: root.subject,
        serialNumber: serial.toString(16).padStart(4, '0'),
        ...ownTimes,
        signingAlgorithm: ALGORITHM,
        publicKey: own.publicKey,
        signingKey: keys.privateKey,
        extensions: [
          new x509.BasicConstraintsExtension(false),
          new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
          new x509.SubjectAlternativeNameExtension(
            names.map((value) => ({ type: isIP(value) === 0 ? 'dns' : 'ip', value })),
          ),
        ],
      });
      const der = Buffer.from(await crypto.subtle.exportKey('pkcs8', own.privateKey));
      const lines = der.toString('base64').replaceAll(/.{64}/g, '$&\n');
      return { cert: leaf.toString('pem'), key: `-----BEGIN PRIVATE KEY-----\n${lines}\n-----END PRIVATE KEY-----\n` };
    },
  };
}
