import { describe, expect, it } from 'vitest';
import { changeOf } from './commands/update.ts';
import { type NetworkFlags, networkOptions } from './sandbox-flags.ts';

const NO_FLAGS: NetworkFlags = { allowOut: [], denyOut: [] };
const usage = expect.objectContaining({ code: 'usage' });

describe('networkOptions', () => {
  it('none unless it is asked for', () => {
    expect(networkOptions(NO_FLAGS)).toBeUndefined();
    expect(networkOptions({ ...NO_FLAGS, net: 'none' })).toBeUndefined();
  });

  it('rules alone mean the mode in which only they count', () => {
    const allow = ['pypi.org', '192.0.2.0/24:443'];
    const rules = { mode: 'allowlist', allow, deny: ['x.example'] };
    expect(networkOptions({ allowOut: allow, denyOut: ['x.example'] })).toEqual(rules);
    const asked = { allowOut: allow, denyOut: [], net: 'egress' } as const;
    expect(networkOptions(asked)).toEqual({ ...rules, deny: [] });
    const open = { allowOut: [], denyOut: ['x.example'], net: 'open' } as const;
    expect(networkOptions(open)).toEqual({ mode: 'open', allow: [], deny: ['x.example'] });
  });

  it('what could never have an effect is a wrong word', () => {
    for (const flags of [
      { ...NO_FLAGS, net: 'egress' },
      { ...NO_FLAGS, denyOut: ['x.example'] },
      { ...NO_FLAGS, net: 'none', allowOut: ['x.example'] },
    ] as const) {
      expect(() => networkOptions(flags)).toThrow(usage);
    }
  });
});

describe('changeOf', () => {
  const none = { ...NO_FLAGS, label: [] };
  it('has what is named, and nothing else', () => {
    expect(changeOf({ ...none, net: 'none' })).toEqual({ network: null });
    expect(changeOf({ ...none, allowOut: ['a.example'] })).toEqual({
      network: { mode: 'allowlist', allow: ['a.example'], deny: [] },
    });
    expect(changeOf({ ...none, timeout: '2m', label: ['a=b'] })).toEqual({
      timeoutMs: 120_000,
      metadata: { a: 'b' },
    });
    expect(changeOf({ ...none, timeout: 'never' })).toEqual({ timeoutMs: null });
  });

  it('nothing is a wrong word', () => {
    expect(() => changeOf(none)).toThrow(usage);
  });

  it('secrets come along with whatever network, but none', () => {
    const env = { KEY: 'a value of the caller' };
    const secret = ['KEY@a.example'];
    const secrets = [{ name: 'KEY', hosts: ['a.example'], value: env.KEY }];
    expect(changeOf({ ...none, secret }, env)).toEqual({ secrets });
    expect(changeOf({ ...none, secret, net: 'open' }, env)).toEqual({
      secrets,
      network: { mode: 'open', allow: [], deny: [] },
    });
    expect(networkOptions({ ...none, secret, net: 'egress' })).toMatchObject({ allow: [] });
    expect(() => changeOf({ ...none, secret, net: 'none' }, env)).toThrow('exclude');
  });
});
