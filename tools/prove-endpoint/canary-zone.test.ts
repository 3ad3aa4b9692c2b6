import { describe, expect, it } from 'vitest';
import { encodeQuery, parseAnswer, parseQuery } from '../../src/egress/net/dns/message.ts';
import { CANARY_LABELS, PRIVATE_ADDRESS, runName, UNREACHABLE_ADDRESS, zoneReply } from './canary-zone.ts';

const ZONE = 'canary.test';
const CANARY = '203.0.113.5';
const RUN = '0123456789abcdef0123';

function resolve(name: string, { times = 0, type = 1 } = {}) {
  const query = parseQuery(encodeQuery(1, name, type));
  if (!query.ok) throw new Error(query.reason);
  const bytes = zoneReply(query.value, ZONE, CANARY, times);
  const answer = parseAnswer(bytes);
  if (!answer.ok) throw new Error(answer.reason);
  const { code, records } = answer.value;
  const addresses = records.flatMap((each) => (each.type === 'CNAME' ? [] : [each.address]));
  return { code, addresses, isAuthority: ((bytes[2] ?? 0) & 4) !== 0 };
}

describe('zoneReply', () => {
  it('resolves all names to the canary, except the special names of a run', () => {
    const of = (label: keyof typeof CANARY_LABELS) => runName(CANARY_LABELS[label], RUN, ZONE);
    const expected = [
      [ZONE, CANARY],
      [`any.thing.${ZONE}`, CANARY],
      [of('allowed'), CANARY],
      [`data.${of('other')}`, CANARY],
      [of('elsewhere'), UNREACHABLE_ADDRESS],
      [of('rebind'), '169.254.169.254'],
      [of('private'), PRIVATE_ADDRESS],
    ] as const;
    for (const [name, address] of expected)
      expect(resolve(name)).toEqual({ code: 0, addresses: [address], isAuthority: true });
    expect(resolve(of('flip')).addresses).toEqual([CANARY]);
    expect(resolve(of('flip'), { times: 1 }).addresses).toEqual(['169.254.169.254']);
  });

  it('has no records of other types, and refuses other zones', () => {
    expect(resolve(ZONE, { type: 28 })).toMatchObject({ code: 0, addresses: [] });
    for (const name of ['example.com', `x${ZONE}`, 'test'])
      expect(resolve(name)).toEqual({ code: 5, addresses: [], isAuthority: false });
  });
});
