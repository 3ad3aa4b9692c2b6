/**
 * Secrets at a real S3 server with two tenants behind one name. The guest has its own account there, and tries to leave
 * the values in it. S3 signatures leave fields out, as bearer tokens leave out everything.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SecretValue } from '../../src/base/request/secret-value.ts';
import type { EgressSecret } from '../../src/egress/net/secret/secret.ts';
import { ADDRESS, cleanUp, undo } from '../support/gateway-servers.ts';
import { certificate, command, HOST } from '../support/gateway-world.ts';
import { requiresS3Server, startS3Server } from '../support/s3-server.ts';
import { presigned, signedFields } from '../support/s3-signature.ts';
import { secretGateway } from '../support/secret-world.ts';

const NAME = 'a.example';
const VICTIM = { accessKey: 'VICTIM00000000000001', secretKey: 'key-of-the-victim-0123456789' };
const GUEST = { accessKey: 'GUEST000000000000001', secretKey: 'key-of-the-guest-0123456789' };
const TOKEN = 'token-of-the-victim-0123456789';
const TOKEN_MARK = 'NV_SECRET_tokentokentokentok01';
const MARK = 'NV_SECRET_signaturesignature0123456789';
const REPORT = { method: 'GET', host: NAME, path: '/victim/report' };

requiresS3Server().describe('secrets at a server with two tenants', (program) => {
  let port: number;
  let secretWorld: Awaited<ReturnType<typeof secretGateway>>;
  /** The query of a URL for the victim's report, in which the signature is a secret. */
  let query: string;
  let signature: string;

  /** Bypasses the gateway, as the outside tenant. */
  const outside = (keys: typeof GUEST, method: string, path: string, ...fields: string[]) => {
    const signed = signedFields({ method, host: NAME, path }, keys);
    const headers = [...signed, ...fields].flatMap((field) => ['-H', field]);
    const to = ['--connect-to', `${NAME}:443:${HOST}:${port}`];
    const how = method === 'HEAD' ? ['-I'] : ['-i', '-X', method];
    const url = `https://${NAME}${path}`;
    return command('curl', ['-sSk', '--http1.1', ...how, ...to, ...headers, url]);
  };
  /** Goes through the gateway, as the guest. @returns status, head and body */
  const guest = (method: string, target: string, fields: readonly string[], body = 'hello') => {
    const data = method === 'PUT' ? ['--data-binary', body] : [];
    const headers = fields.flatMap((field) => ['-H', field]);
    const url = `https://${NAME}${target}`;
    return secretWorld.client(url, '-i', '-X', method, ...headers, ...data);
  };
  const own = (path: string) => signedFields({ method: 'PUT', host: NAME, path }, GUEST);

  beforeAll(async () => {
    const identity = certificate(NAME);
    const server = await startS3Server(program, identity, { victim: VICTIM, guest: GUEST });
    undo.push(() => server.close());
    port = server.port;
    for (const [keys, bucket] of [
      [VICTIM, 'victim'],
      [GUEST, 'guest'],
    ] as const)
      expect((await outside(keys, 'PUT', `/${bucket}`)).out).toMatch(/^HTTP\/1\.1 200 /);
    const stored = await outside(VICTIM, 'PUT', '/victim/report', 'Content-Language: x-report');
    expect(stored.out).toMatch(/^HTTP\/1\.1 200 /);
    ({ query, signature } = presigned(REPORT, VICTIM));
    const hosts = [NAME];
    const secrets: EgressSecret[] = [
      {
        ...{ name: 'SIGNATURE', hosts, placeholder: MARK, value: new SecretValue(signature) },
        places: [{ in: 'query', name: 'X-Amz-Signature' }],
      },
      { name: 'TOKEN', hosts, placeholder: TOKEN_MARK, value: new SecretValue(TOKEN), places: [] },
    ];
    secretWorld = await secretGateway(secrets, identity.cert);
    secretWorld.made.internet.set(`${ADDRESS}:443`, port);
  });
  afterAll(cleanUp);

  it('control: tenants are separated, and a signature omits fields: without the gateway a value would be stored', async () => {
    expect((await outside(GUEST, 'GET', '/victim/report')).out).toMatch(/ 403 [\s\S]*AccessDenied/);
    const wrong = { ...GUEST, secretKey: 'x' };
    expect((await outside(wrong, 'PUT', '/guest/x')).out).toContain('SignatureDoesNotMatch');
    await outside(GUEST, 'PUT', '/guest/control', `Content-Language: ${TOKEN}`);
    const { out } = await outside(GUEST, 'HEAD', '/guest/control');
    expect(out.toLowerCase()).toContain(`content-language: ${TOKEN}`);
  });

  it('the guest uses the secret at its place, and its own account without one', async () => {
    const { out } = await guest('GET', `/victim/report?${query}&X-Amz-Signature=${MARK}`, []);
    expect(out).toMatch(/^HTTP\/1\.1 200 [\s\S]*Content-Language: x-report/i);
    expect(secretWorld.uses.at(-1)).toMatchObject({ kind: 'filled', names: ['SIGNATURE'] });
    const wrong = await guest('GET', `/victim/report?${query}&X-Amz-Signature=${'0'.repeat(64)}`, []);
    expect(wrong.out).toMatch(/^HTTP\/1\.1 403 [\s\S]*SignatureDoesNotMatch/);
    const put = await guest('PUT', '/guest/own', [...own('/guest/own'), 'Content-Language: x-own']);
    expect(put.out).toMatch(/^HTTP\/1\.1 200 /);
    const { out: stored } = await outside(GUEST, 'HEAD', '/guest/own');
    expect(stored.toLowerCase()).toContain('content-language: x-own');
  });

  describe('a deposit in its own account is refused, reported, and stores nothing', () => {
    const path = '/guest/loot';
    it.each([
      ['a standard field', 'secret_misplaced', '', () => [`Content-Language: ${TOKEN_MARK}`]],
      ['a part of one', 'secret_misplaced', '', () => [`Content-Disposition: x="${MARK}"`]],
      ['metadata', 'secret_misplaced', '', () => [`x-amz-meta-l: ${TOKEN_MARK}`]],
      ['tags', 'secret_misplaced', '', () => [`x-amz-tagging: l=${MARK}`]],
      ['the query', 'secret_misplaced', `?x-id=${TOKEN_MARK}`, () => []],
      ['the name', 'secret_misplaced', `-${TOKEN_MARK}`, () => []],
      ['Basic', 'secret_misplaced', '', () => [`Cache-Control: Basic ${basic(TOKEN_MARK)}`]],
      ['a credential field', 'credential_beside_secret', '', () => [`X-Api-Key: ${TOKEN_MARK}`]],
      ['its own place', 'credential_beside_secret', `?X-Amz-Signature=${MARK}`, () => [`Content-Language: x`]],
    ])('%s', async (_what, code, suffix, fields) => {
      await refused(code, path + suffix, [...own(path), ...fields()]);
    });
    it('a signature in its own URL', async () => {
      const mine = presigned({ method: 'PUT', host: NAME, path }, GUEST);
      const target = `${path}?${mine.query}&X-Amz-Signature=${mine.signature}`;
      const bearer = `Authorization: Bearer ${TOKEN_MARK}`;
      await refused('secret_misplaced', target, [`Content-Language: ${TOKEN_MARK}`]);
      await refused('credential_beside_secret', target, [bearer]);
      await refused('credential_beside_secret', `${target}&X-Amz-Signature=${MARK}`, []);
    });

    async function refused(code: string, target: string, fields: readonly string[]): Promise<void> {
      const { made, uses } = secretWorld;
      const [dialed, noted] = [made.dialled.length, uses.length];
      const { out } = await guest('PUT', target, fields);
      expect(out).toMatch(/^HTTP\/1\.1 403 /);
      expect(out).toContain(`"code":"${code}"`);
      expect(made.dialled).toHaveLength(dialed);
      expect(made.reasons().at(-1)).toBe(code);
      expect(uses.slice(noted)).toMatchObject([{ kind: 'unplaced', host: NAME }]);
      expect((await outside(GUEST, 'HEAD', path)).out).toMatch(/^HTTP\/1\.1 404 /);
      const { out: listing } = await outside(GUEST, 'GET', '/guest');
      expect(listing).not.toMatch(/loot|NV_SECRET/);
    }
  });

  it('a body is stored with the placeholder, not with the value', async () => {
    const { out } = await guest('PUT', '/guest/body', own('/guest/body'), TOKEN_MARK);
    expect(out).toMatch(/^HTTP\/1\.1 200 /);
    const { out: stored } = await outside(GUEST, 'GET', '/guest/body');
    expect(stored).toMatch(new RegExp(`\\r\\n\\r\\n${TOKEN_MARK}$`));
  });
});

function basic(password: string): string {
  return Buffer.from(`me:${password}`).toString('base64');
}
