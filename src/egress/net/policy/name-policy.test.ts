import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import { formatAddress } from '../addresses/addresses.ts';
import { METADATA_BLOCKS } from '../addresses/metadata.ts';
import { parsePolicy } from './egress-rules.ts';
import { GatewayJudge } from './judge.ts';
import { namePolicy } from './name-policy.ts';
import { Pins } from './pins.ts';

function judge(text: Parameters<typeof parsePolicy>[0], address: string, pinned: readonly string[]) {
  const pins = new Pins(new FakeClock());
  for (const name of pinned) pins.pin(name, [address], 60);
  const policy = namePolicy(parsePolicy(text));
  return new GatewayJudge(() => policy, pins, { address, port: 443 });
}
const hello = (serverName?: string, hasEch = false) => ({ serverName, protocols: [], hasEch });
const outcome = (judged: ReturnType<GatewayJudge['hello']>) => (judged.ok ? 'ok' : judged.reason);

describe('namePolicy', () => {
  const list = { mode: 'allowlist', allow: ['a.example', '*.w.example', '203.0.113.0/24'] };
  it('allowlist: allows names where they are pinned, and addresses by rule', () => {
    const at = (address: string, pinned: string[] = []) => judge(list, address, pinned);
    expect(outcome(at('192.0.77.1', ['a.example']).hello(hello('a.example')))).toBe('ok');
    expect(outcome(at('192.0.77.1', ['x.w.example']).hello(hello('x.w.example')))).toBe('ok');
    expect(outcome(at('192.0.77.1').hello(hello('a.example')))).toBe('not_pinned');
    expect(outcome(at('192.0.77.1', ['b.example']).hello(hello('b.example')))).toBe('name_refused');
    expect(outcome(at('192.0.77.1', ['a.example']).hello(hello()))).toBe('name_missing');
    expect(outcome(at('192.0.77.1', ['a.example']).hello(hello('a.example', true)))).toBe('ech');
    expect(outcome(at('203.0.113.9').hello(hello()))).toBe('ok');
    expect(outcome(at('203.0.113.9').hello(hello('other.example', true)))).toBe('ok');
  });
  it('no policy allows a metadata service or private address, pinned or not', () => {
    const open = { mode: 'open', allow: ['0.0.0.0/0'] };
    const addresses = METADATA_BLOCKS.map(({ family, base }) => formatAddress({ family, value: base }));
    expect(addresses.length).toBeGreaterThan(8);
    for (const address of [...addresses, '169.254.169.254', '10.0.0.1', '127.0.0.1'])
      for (const policy of [list, open]) {
        const refused = judge(policy, address, ['a.example']).hello(hello('a.example'));
        expect(outcome(refused), address).toBe('address_refused');
        expect(namePolicy(parsePolicy(policy)).allowsAddress(address).allowed, address).toBe(false);
      }
  });
  it('open: allows everything that is not denied by the given and the known names', () => {
    const open = { mode: 'open', deny: ['bad.example'] };
    const at = (pinned: string[]) => judge(open, '192.0.77.1', pinned);
    expect(outcome(at([]).hello(hello('any.example')))).toBe('ok');
    expect(outcome(at([]).hello(hello()))).toBe('ok');
    expect(outcome(at([]).hello(hello('bad.example')))).toBe('name_refused');
    expect(outcome(at([]).hello(hello('any.example', true)))).toBe('ech');
    expect(outcome(at(['bad.example']).hello(hello()))).toBe('address_refused');
  });
  it('none: allows nothing', () => {
    const refused = judge({ mode: 'none' }, '192.0.77.1', ['a.example']).hello(hello('a.example'));
    expect(outcome(refused)).toBe('address_refused');
  });
});
