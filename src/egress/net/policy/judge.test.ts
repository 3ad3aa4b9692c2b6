import { describe, expect, it } from 'vitest';
import { type ListPolicy, listPolicy } from '../../../../test/support/net-policy.ts';
import { FakeClock } from '../../../base/clock.ts';
import { parseHead } from '../http/head.ts';
import { GatewayJudge } from './judge.ts';
import { Pins } from './pins.ts';

const lists: ListPolicy = {
  names: ['a.example', 'b.example'],
  deniedNames: ['no.example'],
  destinations: ['198.51.100.1:80', '198.51.100.1:443', '169.254.169.254:80'],
  privatePrefixes: ['10.'],
};

function judgeAt(address: string, port: number) {
  const clock = new FakeClock();
  const pins = new Pins(clock);
  pins.pin('a.example', ['192.0.2.1', '10.0.0.1', '169.254.169.254'], 60);
  let policy = listPolicy(lists);
  const judge = new GatewayJudge(() => policy, pins, { address, port });
  return { clock, judge, setPolicy: (next: ListPolicy) => (policy = listPolicy(next)) };
}
const hello = (serverName?: string, hasEch = false) => ({ serverName, protocols: [], hasEch });
function head(host: string, method = 'GET') {
  const parsed = parseHead([`${method} / HTTP/1.1`, `Host: ${host}`]);
  if (!parsed.ok) throw new Error(parsed.reason);
  return parsed.head;
}
const reasonOf = (judged: ReturnType<GatewayJudge['hello']>) => (judged.ok ? 'ok' : judged.reason);

describe('GatewayJudge', () => {
  it.each([
    ['ok', '192.0.2.1', hello('a.example')],
    ['not_pinned', '192.0.2.2', hello('a.example')],
    ['not_pinned', '192.0.2.1', hello('b.example')],
    ['name_refused', '192.0.2.1', hello('c.example')],
    ['name_refused', '192.0.2.1', hello('no.example')],
    ['name_missing', '192.0.2.1', hello()],
    ['ech', '192.0.2.1', hello('a.example', true)],
    ['address_refused', '10.0.0.1', hello('a.example')],
    ['address_refused', '169.254.169.254', hello('a.example')],
    ['ok', '198.51.100.1', hello()],
    ['ok', '198.51.100.1', hello('c.example')],
    ['ok', '198.51.100.1', hello('c.example', true)],
    ['name_refused', '198.51.100.1', hello('no.example')],
  ])('hello: %s at %s for %o', (reason, address, given) => {
    expect(reasonOf(judgeAt(address, 443).judge.hello(given))).toBe(reason);
  });
  it.each([
    ['ok', '192.0.2.1', 'a.example'],
    ['ok', '192.0.2.1', 'A.example:80'],
    ['port_mismatch', '192.0.2.1', 'a.example:81'],
    ['not_pinned', '192.0.2.1', 'b.example'],
    ['name_refused', '192.0.2.1', 'c.example'],
    ['address_refused', '192.0.2.1', '192.0.2.1'],
    ['not_pinned', '192.0.2.1', '169.254.169.254'],
    ['not_pinned', '198.51.100.1', '169.254.169.254'],
    ['not_pinned', '198.51.100.1', '[::ffff:169.254.169.254]'],
    ['ok', '198.51.100.1', '198.51.100.1'],
    ['ok', '198.51.100.1', 'c.example'],
    // No rule for addresses opens a metadata service.
    ['address_refused', '169.254.169.254', '169.254.169.254'],
  ])('head: %s at %s for %s', (reason, address, host) => {
    expect(reasonOf(judgeAt(address, 80).judge.head(head(host)))).toBe(reason);
  });
  it('asks the policy about the request, whatever its method', () => {
    const { judge, setPolicy } = judgeAt('192.0.2.1', 80);
    for (const method of ['TRACE', 'OPTIONS']) expect(reasonOf(judge.head(head('a.example', method)))).toBe('ok');
    setPolicy({ ...lists, methods: ['GET'] });
    for (const method of ['TRACE', 'OPTIONS'])
      expect(reasonOf(judge.head(head('a.example', method)))).toBe('request_refused');
    expect(reasonOf(judge.head(head('a.example')))).toBe('ok');
  });
  it('keeps a connection whose pin expires, but not one whose name is no longer allowed', () => {
    const { judge, clock, setPolicy } = judgeAt('192.0.2.1', 80);
    expect(reasonOf(judge.head(head('a.example')))).toBe('ok');
    clock.advance(60_000);
    expect(reasonOf(judge.head(head('a.example')))).toBe('ok');
    setPolicy({ names: ['b.example'] });
    expect(reasonOf(judge.head(head('a.example')))).toBe('name_refused');
  });
  it('refuses an expired pin', () => {
    const { judge, clock } = judgeAt('192.0.2.1', 443);
    clock.advance(60_000);
    expect(reasonOf(judge.hello(hello('a.example')))).toBe('not_pinned');
  });
});
