import { createSecureContext } from 'node:tls';
import { describe, expect, it } from 'vitest';
import { SecretValue } from '../../../base/request/secret-value.ts';
import { NetError } from '../errors.ts';
import { parseHead, type RequestHead } from '../http/head.ts';
import { CertificateAuthority } from '../secret/authority.ts';
import { withSecretHosts } from '../secret/secret.ts';
import { parsePolicy } from './egress-rules.ts';
import { decide, decideName, pinnedPorts } from './policy.ts';
import { decideRequest, needsAnyDecryption, needsDecryption } from './request-policy.ts';

const API = 'api.example.com';

function list(...allow: string[]) {
  return parsePolicy({ mode: 'allowlist', allow });
}

function head(line: string, fields: readonly string[] = [], host = API): RequestHead {
  const parsed = parseHead([`${line} HTTP/1.1`, `Host: ${host}`, ...fields], 'https');
  if (!parsed.ok) throw new Error(parsed.reason);
  return parsed.head;
}

function judge(rules: readonly string[], line: string, fields: readonly string[] = []): string {
  const { allowed, reason } = decideRequest(list(...rules), head(line, fields));
  return allowed ? 'allowed' : (reason ?? 'no reason');
}

function problem(...allow: string[]): string {
  try {
    list(...allow);
  } catch (error) {
    if (!(error instanceof NetError)) throw error;
    return `${error.message} — ${error.remedy}`;
  }
  return 'fine';
}

describe('rules by method and path: what they allow', () => {
  const rules = [`GET,HEAD https://${API}/v1/`, `POST https://${API}/v1/chat`];
  it.each([
    ['GET /v1/models', 'allowed'],
    ['HEAD /v1/', 'allowed'],
    ['GET /v1/models?x=/../..', 'allowed'],
    ['POST /v1/chat', 'allowed'],
    ['POST /v1/chat/completions', 'allowed'],
    [`GET https://${API}/v1/models`, 'allowed'],
    ['GET /v1', 'path_refused'],
    ['GET /', 'path_refused'],
    ['GET /V1/models', 'path_refused'],
    ['GET /v10/', 'path_refused'],
    ['POST /v1/chats', 'path_refused'],
    ['POST /v1/models', 'path_refused'],
    ['GET /v1/../admin', 'path_ambiguous'],
    ['GET /v1/%2e%2e/admin', 'path_ambiguous'],
    ['GET /admin', 'path_refused'],
    [`GET https://${API}/admin`, 'path_refused'],
    [`GET https://${API}?/v1/`, 'path_refused'],
    ['DELETE /v1/models', 'method_refused'],
    ['get /v1/models', 'method_refused'],
    ['Post /v1/chat', 'method_refused'],
    ['TRACE /v1/models', 'method_refused'],
    ['OPTIONS *', 'method_refused'],
  ])('%s: %s', (line, expected) => {
    expect(judge(rules, line)).toBe(expected);
  });
  it('without methods, allows all but those that echo or tunnel, and no WebSocket', () => {
    const all = [`https://${API}/v1/`];
    for (const method of ['GET', 'DELETE', 'PROPFIND', 'OPTIONS'])
      expect(judge(all, `${method} /v1/x`), method).toBe('allowed');
    for (const method of ['TRACE', 'trace', 'TRACK', 'DEBUG', 'WEBSOCKET'])
      expect(judge(all, `${method} /v1/x`), method).toBe('method_refused');
    expect(judge(all, 'OPTIONS *')).toBe('path_ambiguous');
  });
  it('the path / matches every path, however it is written', () => {
    expect(judge([`GET https://${API}/`], 'GET /a/../%2e//;x')).toBe('allowed');
    expect(judge([`GET https://${API}/`], 'PUT /a')).toBe('method_refused');
  });
  it('allows a WebSocket only by its keyword, and only by GET', () => {
    const upgrade = ['Connection: Upgrade', 'Upgrade: websocket'];
    expect(judge([`GET https://${API}/live`], 'GET /live', upgrade)).toBe('method_refused');
    expect(judge([`https://${API}/`], 'GET /live', upgrade)).toBe('method_refused');
    const word = [`WEBSOCKET https://${API}/live`];
    expect(judge(word, 'GET /live', upgrade)).toBe('allowed');
    expect(judge(word, 'DELETE /live', upgrade)).toBe('method_refused');
    expect(judge(word, 'GET /live')).toBe('method_refused');
    expect(judge(word, 'WEBSOCKET /live')).toBe('method_refused');
    expect(judge(word, 'GET /other', upgrade)).toBe('path_refused');
  });
  it.each([
    'X-HTTP-Method-Override: DELETE',
    'X-Http-Method: DELETE',
    'x_method_override: DELETE',
    'X-Original-URL: /admin',
    'X-Rewrite-Url: /admin',
    'X-Forwarded-Host: other.example',
    'X-Forwarded-Prefix: /admin',
    'X_Forwarded_Uri: /admin',
    'Forwarded: host=other.example',
    'Destination: /admin',
    'X-Amz-Copy-Source: /other/key',
    'x-ms-rename-source: /other/key',
    'x-ms-file-rename-source: /other/key',
    'X-Copy-From: /other/key',
    'X-Object-Manifest: other/key',
    'X.Original.URL: /admin',
    'HTTP-Method-Override: DELETE',
    'X-Matched-Path: /admin',
    'x-envoy-original-dst-host: 192.0.2.1:80',
    'Connection: close, Content-Length',
    'Connection: X-Request-Id',
  ])('refuses a field that means another request: %s', (field) => {
    expect(judge(rules, 'GET /v1/models', [field])).toBe('field_refused');
  });
  it('accepts ordinary fields', () => {
    const fields = ['Authorization: Bearer x', 'X-Forwarded-For: 1.2.3.4', 'X-Request-Id: 1'];
    const more = ['Connection: TE, Keep-Alive ,close', 'Content-Length: 0'];
    expect(judge(rules, 'GET /v1/models', [...fields, ...more])).toBe('allowed');
  });
  it('refuses a body of GET and HEAD, but not of other methods', () => {
    for (const field of ['Content-Length: 1', 'Transfer-Encoding: chunked']) {
      expect(judge(rules, 'GET /v1/models', [field])).toBe('body_refused');
      expect(judge(rules, 'HEAD /v1/models', [field])).toBe('body_refused');
      expect(judge(rules, 'POST /v1/chat', [field])).toBe('allowed');
    }
  });
  it('does not judge names without such rules', () => {
    const { allowed } = decideRequest(
      list(...rules, 'b.example.com'),
      head('TRACE /../x', ['X-Original-URL: /y'], 'b.example.com'),
    );
    expect(allowed).toBe(true);
  });
});

describe('rules by method and path: what else they open and close', () => {
  const to = (port: number, protocol: 'tcp' | 'udp' = 'tcp', names = [API]) => ({
    address: '93.184.216.34',
    port,
    protocol,
    names,
  });
  it('open only the name, on the port of the scheme', () => {
    const policy = list(`GET https://${API}/v1/`);
    expect(decide(policy, to(443))).toMatchObject({ allowed: true, reason: 'listed_name' });
    for (const port of [80, 8443, 22]) expect(decide(policy, to(port)).allowed).toBe(false);
    expect(decide(policy, to(443, 'udp')).allowed).toBe(false);
    expect(decideName(policy, API).allowed).toBe(true);
    expect(decideName(policy, 'b.example.com').allowed).toBe(false);
    expect(pinnedPorts(policy, API)).toEqual([]);
  });
  it('override a rule for all names above it, at both ports', () => {
    const policy = list('*.example.com', `GET https://${API}/v1/`);
    expect(decide(policy, to(80)).allowed).toBe(false);
    expect(decide(policy, to(443)).allowed).toBe(true);
    expect(decide(policy, to(80, 'tcp', ['b.example.com'])).allowed).toBe(true);
    expect(decideRequest(policy, head('GET /x')).allowed).toBe(false);
    expect(needsDecryption(policy, API)).toBe(true);
    expect(needsDecryption(policy, 'b.example.com')).toBe(false);
  });
  it('override a UDP rule for all names above it, since HTTP/3 would not be judged', () => {
    const policy = list('*.example.com:443/udp', '*.example.com:53/udp', `GET https://${API}/v1/`);
    expect(decide(policy, to(443, 'udp')).allowed).toBe(false);
    expect(pinnedPorts(policy, API)).toEqual([{ protocol: 'udp', port: 53 }]);
    expect(decide(policy, to(443, 'udp', ['b.example.com'])).allowed).toBe(true);
    expect(pinnedPorts(policy, 'b.example.com')).toHaveLength(2);
  });
  it('a rule of one scheme opens nothing of the other', () => {
    const policy = list(`http://${API}/`, `GET https://${API}/v1/`);
    expect(decideRequest(policy, head('DELETE /x')).reason).toBe('method_refused');
    expect(needsDecryption(list(`http://${API}/`), API)).toBe(false);
    expect(needsAnyDecryption(list(`http://${API}/`))).toBe(false);
    expect(needsAnyDecryption(policy)).toBe(true);
  });
  it('work for names below a wildcard too', () => {
    const policy = list('GET https://*.example.com/v1/');
    expect(needsDecryption(policy, API)).toBe(true);
    expect(needsDecryption(policy, 'example.com')).toBe(false);
    expect(decideRequest(policy, head('GET /v2')).allowed).toBe(false);
  });
  it('are overridden by a deny rule', () => {
    const policy = parsePolicy({ mode: 'allowlist', allow: [`GET https://${API}/v1/`], deny: ['*.example.com'] });
    expect(decide(policy, to(443)).reason).toBe('denied');
  });
  it('are not widened by a secret that belongs to the host', () => {
    const policy = list(`GET https://${API}/v1/`);
    const value = new SecretValue('0123456789abcdef');
    const hosts = [API, 'b.example.com'];
    const secrets = [{ name: 'KEY', hosts, places: [], placeholder: 'NV_1', value }];
    const given = { secrets, authority: new CertificateAuthority({ wall: () => 0 }) };
    const both = withSecretHosts(policy, { ...given, roots: () => createSecureContext() });
    expect(both.allow.map(({ text }) => text)).toEqual([`GET https://${API}/v1/`, 'b.example.com:443']);
    expect(decideRequest(both, head('GET /admin')).reason).toBe('path_refused');
  });
  it('do not affect another port of the same name', () => {
    const policy = list(`GET https://${API}/v1/`, `${API}:5432`);
    expect(pinnedPorts(policy, API)).toEqual([{ protocol: 'tcp', port: 5432 }]);
  });
});

describe('parseRule: invalid rules by method and path', () => {
  it.each([
    [`get https://${API}/`, 'capitals'],
    [`GET, HEAD https://${API}/`, 'where a method belongs'],
    [`GET;HEAD https://${API}/`, 'where a method belongs'],
    [`TRACE https://${API}/`, 'never allowed'],
    [`GET,connect https://${API}/`, 'never allowed'],
    [`WEBSOCKET http://${API}/`, 'needs https://'],
    [`ws://${API}/`, 'is of ws://'],
    [`GET ftp://${API}/`, 'is of ftp://'],
    [`https://${API}`, 'has no path'],
    [`https://${API}?x`, 'only the path is judged'],
    [`https://${API}/v1?x`, 'only the path is judged'],
    [`https://${API}/v1#x`, 'only the path is judged'],
    [`https://${API}/v1/*`, 'everything below its path'],
    [`https://${API}:8443/`, 'another port'],
    [`https://me@${API}/`, 'a user'],
    ['https://192.0.2.1/', 'where a host name belongs'],
    ['https://[2001:db8::1]/', 'host name belongs'],
    ['https://a.*.com/', 'host name belongs'],
    ['https:///v1/', 'host name belongs'],
    [`https://${API}/a/../b`, 'no request can have'],
    [`https://${API}/a//b`, 'no request can have'],
    [`https://${API}/%61`, 'no request can have'],
    ['https://metadata.google.internal/', 'metadata service'],
    [`https://${API}/${'a'.repeat(400)}`, 'too long'],
  ])('%s', (rule, why) => {
    expect(problem(rule)).toContain(why);
  });
  it('shows the syntax in the error', () => {
    expect(problem(`get https://${API}/`)).toContain('"GET,HEAD https://api.example.com/v1/"');
  });
  it('accepts the port of the scheme, and capitals in scheme and host', () => {
    expect(problem(`GET HTTPS://API.example.com:443/v1/`)).toBe('fine');
  });
  it('refuses the same name in whole and in part', () => {
    for (const whole of [API, `${API}:443`, `${API}:80-90/tcp`])
      expect(problem(whole, `GET https://${API}/v1/`), whole).toContain('one opens all of the host');
    // HTTP/3 could carry any request.
    expect(problem(`${API}:443/udp`, `GET https://${API}/v1/`)).toContain('one opens all of the host');
    expect(problem(`${API}:8080`, `${API}:53/udp`, `GET https://${API}/v1/`)).toBe('fine');
  });
  it('refuses request rules in mode open, and to deny', () => {
    const rule = `GET https://${API}/v1/`;
    expect(() => parsePolicy({ mode: 'open', allow: [rule] })).toThrow('needs the mode allowlist');
    expect(() => parsePolicy({ mode: 'allowlist', deny: [rule] })).toThrow('denies by method');
  });
});
