import { describe, expect, it } from 'vitest';
import { connectionOf } from './client.ts';

const KEY = { E2B_API_KEY: 'e2b_00' };

describe('connectionOf', () => {
  it('uses the server’s port for its sandboxes', () => {
    const url = 'http://127.0.0.1:3000/';
    expect(connectionOf({ url, env: { ...KEY, E2B_SANDBOX_URL: '', E2B_DOMAIN: '' } })).toEqual({
      apiKey: 'e2b_00',
      apiUrl: url,
      sandboxUrl: 'http://127.0.0.1:3000',
    });
  });

  it('uses the domain of a server named api.; variables and options override it', () => {
    const url = 'https://api.example.com';
    expect(connectionOf({ url, env: KEY })).toMatchObject({ domain: 'example.com' });
    expect(connectionOf({ url, env: KEY })).not.toHaveProperty('sandboxUrl');
    const env = { ...KEY, E2B_API_URL: url, E2B_SANDBOX_URL: 'https://s.test' };
    expect(connectionOf({ env })).toMatchObject({ apiUrl: url, sandboxUrl: 'https://s.test' });
    expect(connectionOf({ env: KEY, domain: 'e.test' }).apiUrl).toBe('https://api.e.test');
    expect(connectionOf({ env: KEY }).apiUrl).toBe('https://api.e2b.app');
  });

  it('accepts E2B’s key or NeuroVisor’s', () => {
    expect(connectionOf({ env: { NEUROVISOR_API_KEY: 'k' } }).apiKey).toBe('k');
    expect(() => connectionOf({ env: { E2B_API_KEY: '' } })).toThrow('without a key');
    expect(() => connectionOf({ env: KEY, url: 'nowhere' })).toThrow('invalid URL');
  });
});
