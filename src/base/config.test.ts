import { describe, expect, it } from 'vitest';
import { readConfig } from './config.ts';

describe('NEUROVISOR_PROBES', () => {
  const none = { latency: false, processes: false, syscalls: false };
  it.each([
    [undefined, { ...none, latency: true, processes: true, isAsked: false }],
    ['auto', { ...none, latency: true, processes: true, isAsked: false }],
    ['off', { ...none, isAsked: true }],
    ['syscalls', { ...none, syscalls: true, isAsked: true }],
    ['latency,syscalls', { ...none, latency: true, syscalls: true, isAsked: true }],
  ])('accepts %s', (NEUROVISOR_PROBES, expected) => {
    expect(readConfig({ NEUROVISOR_PROBES }).probes).toEqual(expected);
  });

  it.each(['on', 'latency,', 'latency,auto', 'latency processes'])('refuses "%s"', (text) => {
    expect(() => readConfig({ NEUROVISOR_PROBES: text })).toThrowError(
      expect.objectContaining({ code: 'config_invalid' }),
    );
  });
});

describe('NEUROVISOR_URL', () => {
  it.each(['http://127.0.0.1:7070', 'https://box.example.org:7070', 'https://box/'])('accepts %s', (url) => {
    expect(readConfig({ NEUROVISOR_URL: url }).daemonUrl).toBe(url);
  });

  it.each(['ftp://a', 'http://', 'http://a/b', 'http://a?b', 'https://user:password@a'])(
    'refuses "%s", with what to use',
    (text) => {
      expect(() => readConfig({ NEUROVISOR_URL: text })).toThrowError(
        expect.objectContaining({
          code: 'config_invalid',
          message: expect.stringContaining('expected http://HOST:PORT or https://HOST:PORT'),
        }),
      );
    },
  );
});

describe('NEUROVISOR_ALLOW_FIELDS', () => {
  it('accepts a list of paths', () => {
    expect(readConfig({}).allowFields).toEqual([]);
    const { allowFields } = readConfig({ NEUROVISOR_ALLOW_FIELDS: 'a,messages.b-c.$d' });
    expect(allowFields).toEqual(['a', 'messages.b-c.$d']);
  });

  it.each(['a,', 'a b', 'a..b', '.a', '*', 'messages[].a'])('refuses "%s"', (text) => {
    expect(() => readConfig({ NEUROVISOR_ALLOW_FIELDS: text })).toThrowError(
      expect.objectContaining({ code: 'config_invalid' }),
    );
  });
});

describe('NEUROVISOR_WEBHOOK_HOSTS', () => {
  it('accepts a list of HOST or HOST:PORT', () => {
    expect(readConfig({}).webhookHosts).toEqual([]);
    const text = '127.0.0.1:9000,hooks.internal,[::1],[fd00::1]:80';
    const { webhookHosts } = readConfig({ NEUROVISOR_WEBHOOK_HOSTS: text });
    expect(webhookHosts).toEqual(text.split(','));
  });

  it.each(['http://a', 'a,', 'a b', '10.0.0.0/8', '*.a', '::1', 'a:b', 'u@a'])('refuses "%s"', (text) => {
    expect(() => readConfig({ NEUROVISOR_WEBHOOK_HOSTS: text })).toThrowError(
      expect.objectContaining({ code: 'config_invalid' }),
    );
  });

  it('a cassette: resolves to an absolute path, in one of two modes', () => {
    expect(readConfig({}).cassette).toBe(null);
    expect(readConfig({ NEUROVISOR_RECORD: '/a.json' }).cassette).toEqual({ mode: 'record', path: '/a.json' });
    expect(readConfig({ NEUROVISOR_REPLAY: '/a.json' }).cassette?.mode).toBe('replay');
    const both = { NEUROVISOR_RECORD: '/a', NEUROVISOR_REPLAY: '/a' };
    expect(() => readConfig(both)).toThrow('mutually exclusive');
  });
});
