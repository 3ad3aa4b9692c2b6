/** Generates the certificates of `authority.ts`. A separate file, since the library is slow to load. */
import 'reflect-metadata';
import { KeyObject, type webcrypto } from 'node:crypto';
import { createSecureContext, type SecureContext } from 'node:tls';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  type X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';

const HOUR_MS = 3_600_000;
export const DAY_MS = 24 * HOUR_MS;
/** The longest time that a sandbox may stay paused. */
const ROOT_DAYS = 3650;
const LEAF_DAYS = 7;
const COMMON_NAME_CHARACTERS_MAX = 64;
const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

export interface Root {
  readonly keys: webcrypto.CryptoKeyPair;
  readonly certificate: X509Certificate;
}

/** @param now milliseconds since 1970 */
export async function makeRoot(now: number): Promise<Root> {
  const keys = await makeKeys(false);
  const certificate = await X509CertificateGenerator.createSelfSigned({
    name: [{ O: ['NeuroVisor'] }, { CN: ['Secrets of one sandbox'] }],
    notBefore: new Date(now - DAY_MS),
    notAfter: new Date(now + ROOT_DAYS * DAY_MS),
    keys,
    signingAlgorithm: ALGORITHM,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { keys, certificate };
}

export function pemOf({ certificate }: Root): string {
  return `${certificate.toString('pem').trim()}\n`;
}

/** @param host canonical. @param now milliseconds since 1970 */
export async function makeLeaf(root: Root, host: string, now: number): Promise<SecureContext> {
  const keys = await makeKeys(true);
  const certificate = await X509CertificateGenerator.create({
    subject: [{ CN: [host.slice(0, COMMON_NAME_CHARACTERS_MAX)] }],
    issuer: root.certificate.subject,
    notBefore: new Date(now - HOUR_MS),
    notAfter: new Date(now + LEAF_DAYS * DAY_MS),
    publicKey: keys.publicKey,
    signingKey: root.keys.privateKey,
    signingAlgorithm: ALGORITHM,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth]),
      new SubjectAlternativeNameExtension([{ type: 'dns', value: host }]),
      await AuthorityKeyIdentifierExtension.create(root.keys.publicKey),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return createSecureContext({
    key: KeyObject.from(keys.privateKey).export({ type: 'pkcs8', format: 'pem' }),
    cert: certificate.toString('pem'),
    minVersion: 'TLSv1.2',
  });
}

async function makeKeys(isExtractable: boolean): Promise<webcrypto.CryptoKeyPair> {
  return await crypto.subtle.generateKey(ALGORITHM, isExtractable, ['sign', 'verify']);
}
