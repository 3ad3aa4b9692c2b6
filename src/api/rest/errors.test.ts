import { describe, expect, it } from 'vitest';
import { GuestError } from '../../machine/guest/errors.ts';
import { BusyError, SandboxError } from '../../sandbox/contract/errors.ts';
import { ApiError, errorAnswer } from './errors.ts';
import { API_LIMITS } from './limits.ts';

describe('errorAnswer', () => {
  it.each([
    [new SandboxError('spec_invalid', 'm'), 400, 'spec_invalid'],
    [new SandboxError('not_found', 'm'), 404, 'not_found'],
    [new SandboxError('not_ready', 'm'), 409, 'not_ready'],
    [new SandboxError('name_taken', 'm'), 409, 'name_taken'],
    [new SandboxError('gone', 'm'), 410, 'gone'],
    [new SandboxError('start_failed', 'm'), 502, 'start_failed'],
    [new GuestError('not_found', 'm'), 404, 'guest_not_found'],
    [new GuestError('guest_failed', 'm'), 502, 'guest_failed'],
    [new GuestError('disk_full', 'm'), 507, 'guest_disk_full'],
    [new ApiError('unauthorized', 'm'), 401, 'unauthorized'],
  ])('%s is %i %s', (error, status, code) => {
    expect(errorAnswer(error)).toEqual({
      status,
      headers: {},
      body: { error: { code, message: 'm', remedy: error.remedy ?? null } },
    });
  });

  it('busy: 429 with the retry time in remedy, retryAfterMs and Retry-After', () => {
    const { status, headers, body } = errorAnswer(new BusyError('m', 1200));
    expect(status).toBe(429);
    expect(headers).toEqual({ 'retry-after': '2' });
    expect(body.error).toMatchObject({ retryAfterMs: 1200, remedy: 'try again in 2 s' });
    expect(errorAnswer(new BusyError('m', 0)).headers).toEqual({ 'retry-after': '1' });
  });

  it('a known error: includes its causes, up to the message limit', () => {
    const cause = new Error('x'.repeat(2 * API_LIMITS.messageCharactersMax));
    const { message } = errorAnswer(new SandboxError('start_failed', 'm', { cause })).body.error;
    expect(message.startsWith('m: xxx')).toBe(true);
    expect(message).toHaveLength(API_LIMITS.messageCharactersMax);
  });

  it.each([
    ['an error', new Error('/secret/path')],
    ['a coded error of another part', Object.assign(new Error('/secret/path'), { code: 'gone' })],
    ['anything', '/secret/path'],
    ['nothing', undefined],
  ])('%s without a known code: 500 without details', (_what, error) => {
    const answer = errorAnswer(error);
    expect(answer.status).toBe(500);
    expect(JSON.stringify(answer)).not.toContain('secret');
  });
});
