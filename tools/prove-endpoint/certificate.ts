/** A self-signed certificate, enough to detect TLS handshakes (I/O: random numbers). */

const YEAR_MS = 365 * 24 * 3600 * 1000;
const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

/** @param names the first is the subject. @returns PEM */
export async function makeCertificate(names: readonly string[]): Promise<{ key: string; cert: string }> {
  await import('reflect-metadata');
  const x509 = await import('@peculiar/x509');
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const now = Date.now();
  const cert = await x509.X509CertificateGenerator.createSelfSigned({
    name: `CN=${names[0] ?? 'canary'}`,
    notBefore: new Date(now - YEAR_MS),
    notAfter: new Date(now + YEAR_MS),
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [new x509.SubjectAlternativeNameExtension(names.map((value) => ({ type: 'dns', value })))],
  });
  const key = Buffer.from(await crypto.subtle.exportKey('pkcs8', keys.privateKey));
  const lines = key.toString('base64').replaceAll(/.{64}/g, '$&\n');
  return { key: `-----BEGIN PRIVATE KEY-----\n${lines}\n-----END PRIVATE KEY-----\n`, cert: cert.toString('pem') };
}
