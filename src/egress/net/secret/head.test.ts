import { describe, expect, it } from 'vitest';
import { SecretValue } from '../../../base/request/secret-value.ts';
import { parseHead } from '../http/head.ts';
import { fillHead } from './head.ts';
import type { EgressSecret } from './secret.ts';

const VALUE = 'sk-live/0123+456789=abcdef';
const MARK = 'NV_SECRET_abcdefghijklmnop';
const OTHER_VALUE = 'application-key-0123456789';
const OTHER_MARK = 'NV_SECRET_zyxwvutsrqponmlk';
const basic = (pair: string): string => Buffer.from(pair, 'latin1').toString('base64');

function secret(places: EgressSecret['places'] = [], isOther = false): EgressSecret {
  const [name, placeholder, value] = isOther ? ['APP_KEY', OTHER_MARK, OTHER_VALUE] : ['API_KEY', MARK, VALUE];
  return { name, hosts: ['a.example'], places, placeholder, value: new SecretValue(value) };
}

function fill(target: string, fields: readonly string[], secrets = [secret()]) {
  const parsed = parseHead([`POST ${target} HTTP/1.1`, 'Host: a.example', 'Content-Length: 0', ...fields], 'https');
  if (!parsed.ok) throw new Error(parsed.reason);
  return fillHead(parsed.head, secrets);
}

function sent(target: string, fields: readonly string[], secrets?: EgressSecret[]): string {
  const filled = fill(target, fields, secrets);
  return filled.ok ? filled.forward : filled.reason;
}

describe('fillHead: the places of a secret', () => {
  it('refuses the placeholder of a removed secret, and passes other requests', () => {
    const removed = { ...secret(), isMissing: true };
    expect(sent('/', [`Authorization: Bearer ${MARK}`], [removed])).toBe('secret_missing');
    expect(sent('/', ['Authorization: Bearer other'], [removed])).toContain('Bearer other');
  });
  it.each([
    [`Authorization: Bearer ${MARK}`, `Authorization: Bearer ${VALUE}`],
    [`authorization:${MARK}`, `authorization: ${VALUE}`],
    [`Authorization: token ${MARK}`, `Authorization: token ${VALUE}`],
    [`Authorization: Token token="${MARK}"`, `Authorization: Token token="${VALUE}"`],
    [`Authorization: GoogleLogin auth=${MARK}`, `Authorization: GoogleLogin auth=${VALUE}`],
    [`Authorization: Basic ${MARK}`, `Authorization: Basic ${VALUE}`],
    [`Authorization: Basic ${basic(`me:${MARK}`)}`, basic(`me:${VALUE}`)],
    [`Authorization: Basic ${basic(`${MARK}:x-oauth-basic`)}`, basic(`${VALUE}:x-oauth-basic`)],
    [`Authorization: Basic ${basic(`${MARK}:`)}`, basic(`${VALUE}:`)],
    [`x-api-key: ${MARK}`, `x-api-key: ${VALUE}`],
    [`X-Goog-Api-Key: ${MARK}`, `X-Goog-Api-Key: ${VALUE}`],
    [`PRIVATE-TOKEN: ${MARK}`, `PRIVATE-TOKEN: ${VALUE}`],
    [`xi-api-key: ${MARK}`, `xi-api-key: ${VALUE}`],
  ])('by default: %s', (field, filled) => {
    expect(sent('/', [field])).toContain(`${filled}\r\n`);
  });
  it('a header field of its own replaces the default fields', () => {
    const secrets = [secret([{ in: 'header', name: 'X-My-Id' }])];
    expect(sent('/', [`x-my-id: ${MARK}`], secrets)).toContain(`x-my-id: ${VALUE}\r\n`);
    expect(sent('/', [`Authorization: Bearer ${MARK}`], secrets)).toBe('secret_misplaced');
  });
  it('fills a query parameter, percent-encoded', () => {
    const secrets = [secret([{ in: 'query', name: 'key' }])];
    expect(sent(`/x?a=1&key=${MARK}&b`, [], secrets)).toMatch(
      `POST /x?a=1&key=${encodeURIComponent(VALUE)}&b HTTP/1.1\r\n`,
    );
  });
  it('fills the signature of a URL, whose key name is no credential', () => {
    const secrets = [secret([{ in: 'query', name: 'X-Amz-Signature' }])];
    const target = `/o?X-Amz-Credential=me%2F1%2Fus%2Fs3%2Faws4_request&X-Amz-Signature=${MARK}`;
    expect(fill(target, [], secrets)).toMatchObject({ ok: true, used: ['API_KEY'] });
  });
  it('fills a cookie that is alone in its field', () => {
    const secrets = [secret([{ in: 'header', name: 'Cookie' }])];
    expect(sent('/', [`Cookie: session=${MARK}`], secrets)).toContain(`session=${VALUE}\r\n`);
    expect(sent('/', [`Cookie: session=mine; x=${MARK}`], secrets)).toBe('secret_misplaced');
  });
  it('fills two secrets, each at its place, and both halves of Basic', () => {
    const two = [secret(), secret([], true)];
    const keys = [`DD-API-KEY: ${MARK}`, `DD-APPLICATION-KEY: ${OTHER_MARK}`];
    expect(fill('/', keys, two)).toMatchObject({ ok: true, used: ['API_KEY', 'APP_KEY'] });
    const both = `Authorization: Basic ${basic(`${MARK}:${OTHER_MARK}`)}`;
    expect(sent('/', [both], two)).toContain(basic(`${VALUE}:${OTHER_VALUE}`));
    const swapped = [secret([{ in: 'header', name: 'X-A' }]), secret([], true)];
    expect(sent('/', keys, swapped)).toBe('secret_misplaced');
  });
});

describe('fillHead: refuses a placeholder elsewhere', () => {
  const own = 'Authorization: Bearer of-the-guest';
  it.each([
    ['a field of metadata', '/', [own, `x-goog-meta-l: ${MARK}`]],
    ['metadata that is called a key', '/', [`x-amz-meta-api-key: ${MARK}`]],
    ['any other field', '/', [`User-Agent: ${MARK}`]],
    ['a field that is not passed on', '/', [`Range: ${MARK}`]],
    ['a field that proxies log', '/', [`X-Forwarded-For: ${MARK}`]],
    ['a field in another spelling', '/', [`X_Api_Key: ${MARK}`]],
    ['the name of a field', '/', [`${MARK}: x`]],
    ['Basic credentials in another field', '/', [`X-Note: Basic ${basic(`me:${MARK}`)}`]],
    ['a cookie', '/', [`Cookie: a=${MARK}`]],
    ['the query', `/?key=${MARK}`, []],
    ['the name of a parameter', `/?${MARK}=x`, []],
    ['the path', `/${MARK}`, [own]],
    ['also one at its place', `/${MARK}`, [`Authorization: Bearer ${MARK}`]],
    ['a list of credentials', '/', [`Authorization: Bearer mine, Bearer ${MARK}`]],
    ['a list of credentials, first', '/', [`Authorization: Bearer ${MARK}, Bearer mine`]],
    ['a signature', '/', [`Authorization: AWS4-HMAC-SHA256 Credential=mine, Signature=${MARK}`]],
    ['a text around it', '/', [`X-Api-Key: x${MARK}`]],
    ['a text around it in Basic', '/', [`Authorization: Basic ${basic(`me:x${MARK}`)}`]],
    ['twice in one field', '/', [`X-Api-Key: ${MARK} ${MARK}`]],
    ['twice the same field', '/', [`X-Api-Key: ${MARK}`, `x-api-key: ${MARK}`]],
  ])('%s', (_what, target, fields) => {
    expect(fill(target, fields)).toMatchObject({ ok: false, reason: 'secret_misplaced', names: ['API_KEY'] });
  });
  it.each([
    ['another parameter', `/?other=${MARK}`],
    ['another case', `/?KEY=${MARK}`],
    ['another spelling', `/?k%65y=${MARK}`],
    ['a text around it', `/?key=x${MARK}`],
    ['behind a semicolon', `/?a=1;key=${MARK}`],
    ['the same parameter twice', `/?key=${MARK}&key=${MARK}`],
  ])('a query parameter: %s', (_what, target) => {
    const secrets = [secret([{ in: 'query', name: 'key' }])];
    expect(sent(target, [], secrets)).toBe('secret_misplaced');
  });
  it('names the place, the secret and the remedy in the message', () => {
    const { why } = fill('/', [`X-Note: ${MARK}`]) as { why: string };
    expect(why).toMatch(/API_KEY is in the header field X-Note; .*Authorization.*:header=FIELD/);
  });
});

describe('fillHead: refuses another credential beside a secret', () => {
  const bearer = `Authorization: Bearer ${MARK}`;
  it.each([
    ['another credential field', '/', ['X-Auth-Token: mine']],
    ['in another spelling', '/', ['X_API_KEY: mine']],
    ['a field with a usual name', '/', ['X-Acme-Access-Key: mine']],
    ['a token of a session', '/', ['X-Amz-Security-Token: mine']],
    ['a field of a proxy', '/', ['Proxy-Authorization: Basic bWU6eA==']],
    ['a second Authorization', '/', ['Authorization: Bearer mine']],
    ['a signature of the message', '/', ['Signature-Input: sig1=()']],
    ['a key in the protocols of WebSocket', '/', ['Sec-WebSocket-Protocol: x, api-key.mine']],
    ['a signature in the query (S3)', '/?X-Amz-Credential=me&X-Amz-Signature=0f', []],
    ['a signature in the query (GCS)', '/?X-Goog-Signature=0f', []],
    ['a signature in the query (Azure)', '/?se=1&sig=0f', []],
    ['a signature in the query (CloudFront)', '/?Signature=0f&Key-Pair-Id=K', []],
    ['a key in the query', '/?key=mine', []],
    ['an encoded name', '/?access%5Ftoken=mine', []],
    ['behind a semicolon', '/?a=1;token=mine', []],
    ['an array', '/?api_key[]=mine', []],
    ['an array with an index', '/?api_key[0]=mine', []],
    ['an encoded array', '/?token%5B0%5D=mine', []],
    ['a name that ends at a NUL', '/?api_key%00x=mine', []],
  ])('%s', (_what, target, fields) => {
    expect(sent(target, [...fields, bearer])).toBe('credential_beside_secret');
    expect(sent(target, [bearer, ...fields])).toBe('credential_beside_secret');
    expect(fill(target, fields)).toMatchObject({ ok: true, used: [] });
  });
  it('refuses a named place with a value of the guest', () => {
    const places = [
      { in: 'header', name: 'X-Acme' },
      { in: 'header', name: 'Authorization' },
      { in: 'query', name: 'appid' },
    ] as const;
    expect(sent('/', [bearer, 'x_acme: mine'], [secret(places)])).toBe('credential_beside_secret');
    expect(sent('/?APPID=x', [bearer], [secret(places)])).toBe('credential_beside_secret');
    expect(sent('/?appid[1]=x', [bearer], [secret(places)])).toBe('credential_beside_secret');
    expect(sent('/?APPID=', [bearer, 'X-Acme:'], [secret(places)])).toContain(VALUE);
  });
  it('refuses an Authorization beside a query secret', () => {
    const secrets = [secret([{ in: 'query', name: 'key' }])];
    const own = 'Authorization: Bearer mine';
    expect(sent(`/?key=${MARK}`, [own], secrets)).toBe('credential_beside_secret');
  });
  it.each([
    ['OpenAI', ['OpenAI-Organization: org-1', 'OpenAI-Project: p', 'Idempotency-Key: k']],
    ['Anthropic', ['anthropic-version: 2023-06-01', 'anthropic-beta: x', 'X-Stainless-OS: L']],
    ['Stripe', ['Stripe-Account: acct_1', 'Stripe-Version: 1', 'Idempotency-Key: k']],
    ['GitHub', ['X-GitHub-Api-Version: 2022-11-28', 'Accept: application/json']],
    ['Google', ['x-goog-user-project: p', 'x-goog-api-client: gl-python/3']],
    ['Cloudflare', ['X-Auth-Email: me@a.example']],
    ['Jira', ['X-Atlassian-Token: no-check']],
    ['MCP', ['Mcp-Session-Id: s', 'MCP-Protocol-Version: 1']],
    ['Azure', ['x-ms-version: 1', 'x-ms-client-request-id: i']],
    ['forgery checks', ['X-CSRF-Token: t', 'X-XSRF-TOKEN: t']],
    ['traces', ['traceparent: 00-1-1-01', 'X-Request-Id: r']],
    ['metadata', ['x-amz-meta-token: mine']],
    ['WebSocket', ['Sec-WebSocket-Key: x', 'Sec-WebSocket-Protocol: chat']],
  ])('passes what %s’s clients send beside one', (_what, fields) => {
    const target = '/?pageToken=t&continuation-token=t&projectKey=ABC&sort_key=k&X-Amz-Date=d&key=';
    const forward = sent(target, [bearer, ...fields]);
    expect(forward).toContain(VALUE);
    for (const field of fields) expect(forward).toContain(`${field}\r\n`);
  });
  it('drops cookies beside a secret, and passes them without one', () => {
    const cookie = 'Cookie: __cf_bm=x; session=mine';
    expect(fill('/', [cookie, bearer])).toMatchObject({ ok: true, isWithoutCookies: true });
    expect(sent('/', [cookie, bearer])).not.toContain('Cookie');
    expect(fill('/', [cookie])).toMatchObject({ ok: true, isWithoutCookies: false });
    expect(sent('/', [cookie])).toContain(cookie);
  });
});

it('fillHead: the work for a request does not grow with the secrets and places of its host', () => {
  const many = Array.from({ length: 32 }, (_, index): EgressSecret => {
    const placeholder = `NV_SECRET_${index}`.padEnd(32, 'x');
    const places = [...'abcdefgh'].map((name) => ({ in: 'query', name: `${name}${index}` }) as const);
    return { ...secret(places), name: `KEY_${index}`, placeholder };
  });
  const target = `/?${'a=b&'.repeat(3900)}`;
  const fields = [`Authorization: Bearer ${MARK}`];
  const leastMs = (secrets: EgressSecret[]): number => {
    const times = Array.from({ length: 15 }, () => {
      const start = performance.now();
      expect(fill(target, fields, secrets).ok).toBe(true);
      return performance.now() - start;
    });
    return Math.min(...times);
  };
  // Comparing each parameter with each place would take more than a hundred times as long.
  expect(leastMs([secret(), ...many]) / leastMs([secret()])).toBeLessThan(10);
});
