import { describe, expect, it } from 'vitest';
import { type PathProblem, readPath } from './request-path.ts';

const problem = (target: string): PathProblem | undefined => {
  const read = readPath(target);
  return read.ok ? undefined : read.problem;
};

describe('readPath: unambiguous paths', () => {
  it.each([
    '/',
    '/v1/',
    '/v1/models/gpt-4.1:generate',
    '/a%20b/c',
    '/caf%C3%A9/%E6%97%A5%E6%9C%AC',
    '/cafe%CC%81',
    "/x/!$&'()*+,=:@",
    '/.well-known/x',
    '/a..b/c...',
    '/..a',
    '/room/%23name:server/%3F',
    '/reactions/%E2%9D%A4%EF%B8%8F/@me',
  ])('%s', (path) => {
    expect(readPath(path)).toEqual({ ok: true, path });
  });
  it('ignores the query', () => {
    expect(readPath('/v1/x?a=//../%2e%zz;')).toEqual({ ok: true, path: '/v1/x' });
  });
  it('converts percent-encodings to upper case', () => {
    expect(readPath('/caf%c3%a9')).toEqual({ ok: true, path: '/caf%C3%A9' });
  });
});

describe('readPath: refuses ambiguous paths, and says why', () => {
  it.each<[PathProblem, string]>([
    ['no_path', '*'],
    ['no_path', ''],
    ['no_path', 'v1/x'],
    ['character', '/a\\b'],
    ['character', '/a"b'],
    ['character', '/a{b}'],
    ['character', '/a|b'],
    ['character', '/a\tb'],
    ['character', '/a\u00e9'],
    ['percent', '/a%'],
    ['percent', '/a%2'],
    ['percent', '/a%zz'],
    ['percent', '/a%u002e'],
    ['encoded_unreserved', '/%61dmin'],
    ['encoded_unreserved', '/v1/%2e%2e/admin'],
    ['encoded_unreserved', '/v1/%2E./admin'],
    ['encoded_unreserved', '/v1/.%2e/admin'],
    ['encoded_unreserved', '/%7euser'],
    ['encoded_delimiter', '/v1/..%2fadmin'],
    ['encoded_delimiter', '/v1/x%2F..%2Fadmin'],
    ['encoded_delimiter', '/v1/..%5cadmin'],
    ['encoded_delimiter', '/v1/..%3b/admin'],
    ['encoded_delimiter', '/v1/%252e%252e/admin'],
    ['encoded_delimiter', '/v1/x%00'],
    ['encoded_delimiter', '/v1/x%0d%0aHost:y'],
    ['encoded_delimiter', '/v1/x%7f'],
    ['encoded_text', '/v1/%c0%ae%c0%ae/admin'],
    ['encoded_text', '/v1/%c0%af'],
    ['encoded_text', '/v1/%ff'],
    ['encoded_text', '/v1/%ed%a0%80'],
    ['encoded_text', '/v1/%EF%BC%8E%EF%BC%8E/admin'],
    ['encoded_text', '/v1%EF%BC%8Fadmin'],
    ['encoded_text', '/v1/%E2%80%A5/admin'],
    ['encoded_text', '/v1%E2%88%95admin'],
    ['encoded_text', '/v1%C2%A5admin'],
    ['encoded_text', '/v1/%C2%85'],
    ['empty_segment', '//v1'],
    ['empty_segment', '/v1//admin'],
    ['empty_segment', '/v1//'],
    ['dot_segment', '/v1/./x'],
    ['dot_segment', '/v1/../admin'],
    ['dot_segment', '/v1/..'],
    ['dot_segment', '/v1/.../x'],
    ['dot_segment', '/v1/..%20/x'],
    ['dot_segment', '/v1/%20/x'],
    ['dot_segment', '/v1/.%E2%80%8B./x'],
    ['dot_segment', '/v1/%E2%80%8B/x'],
    ['dot_segment', '/v1/.%C2%AD./x'],
    ['parameter', '/v1/..;/admin'],
    ['parameter', '/v1;x=1/y'],
  ])('%s: %s', (expected, path) => {
    expect(problem(path)).toBe(expected);
  });
});
