/**
 * Certificates in which one sandbox's guest trusts, for the hosts that its secrets belong to. The keys are made
 * here and never leave this process' memory.
 *
 *     root (P-256, in the guest's bundle) ──signs──► one certificate for each host, made when first asked for
 */
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
import type { Clock } from '../base/clock.ts';

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** A sandbox may be paused for as long as that. */
const ROOT_DAYS = 3650;
const LEAF_DAYS = 7;
/** Made anew when less of its life is left, so that a guest whose clock is off takes it. */
const LEAF_LEFT_DAYS_MIN = 3;
const HOSTS_MAX = 1024;
const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

interface Root {
  readonly keys: webcrypto.CryptoKeyPair;
  readonly certificate: X509Certificate;
}

interface Leaf {
  readonly context: Promise<SecureContext>;
  readonly remakeAtMs: number;
}

export class CertificateAuthority {
  readonly #clock: Pick<Clock, 'wall'>;
  readonly #leaves = new Map<string, Leaf>();
  #root: Promise<Root> | undefined;
  #leafKeys: Promise<webcrypto.CryptoKeyPair> | undefined;

  constructor(clock: Pick<Clock, 'wall'>) {
    this.#clock = clock;
  }

  /** Not written down with what holds it. */
  toJSON(): undefined {
    return undefined;
  }

  /** The root, as PEM: for the guest. */
  async certificate(): Promise<string> {
    return `${(await this.#theRoot()).certificate.toString('pem').trim()}\n`;
  }

  /** To be a server of this name with. @param host canonical */
  contextFor(host: string): Promise<SecureContext> {
    const now = this.#clock.wall();
    const known = this.#leaves.get(host);
    if (known !== undefined && now < known.remakeAtMs) return known.context;
    if (this.#leaves.size >= HOSTS_MAX) this.#leaves.clear();
    const remakeAtMs = now + (LEAF_DAYS - LEAF_LEFT_DAYS_MIN) * DAY_MS;
    const leaf = { context: this.#makeLeaf(host, now), remakeAtMs };
    leaf.context.catch(() => this.#leaves.delete(host));
    this.#leaves.set(host, leaf);
    return leaf.context;
  }

  #theRoot(): Promise<Root> {
    this.#root ??= makeRoot(this.#clock.wall());
    return this.#root;
  }

  async #makeLeaf(host: string, now: number): Promise<SecureContext> {
    this.#leafKeys ??= makeKeys(true);
    const [root, keys] = await Promise.all([this.#theRoot(), this.#leafKeys]);
    const certificate = await X509CertificateGenerator.create({
      subject: [{ CN: [host.slice(0, 64)] }],
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
}

async function makeRoot(now: number): Promise<Root> {
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

async function makeKeys(isExtractable: boolean): Promise<webcrypto.CryptoKeyPair> {
  return await crypto.subtle.generateKey(ALGORITHM, isExtractable, ['sign', 'verify']);
}
