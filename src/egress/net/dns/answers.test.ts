import { describe, expect, it } from 'vitest';
import { listPolicy } from '../../../../test/support/net-policy.ts';
import { FakeClock } from '../../../base/clock.ts';
import { PIN_LIMITS, Pins } from '../policy/pins.ts';
import {
  ALIASES_MAX,
  ASKS_MAX,
  isAnswerTo,
  type NameEvent,
  SandboxNames,
  type SandboxNamesOptions,
  spellAtRandom,
} from './answers.ts';
import { DNS_CODE, DNS_TYPE, type DnsAnswer, type DnsRecord } from './message.ts';

const policy = listPolicy({
  names: ['a.example', '*.w.example'],
  deniedNames: ['evil.w.example', 'metadata.google.internal'],
  privatePrefixes: ['10.', '192.168.', 'fc', 'fd'],
});

function world(options: Partial<SandboxNamesOptions> = {}) {
  const clock = new FakeClock();
  const events: NameEvent[] = [];
  const pins = new Pins(clock, { ...PIN_LIMITS, namesMax: 3 });
  const names = new SandboxNames({ policy, pins, clock, onEvent: (event) => events.push(event), ...options });
  return { clock, events, pins, names };
}

const a = (name: string, address: string, ttlSeconds = 300): DnsRecord => ({
  type: address.includes(':') ? 'AAAA' : 'A',
  name,
  ttlSeconds,
  address,
});
const cname = (name: string, target: string, ttlSeconds = 300): DnsRecord => ({
  type: 'CNAME',
  name,
  ttlSeconds,
  target,
});
const answer = (records: readonly DnsRecord[], code: number = DNS_CODE.ok): DnsAnswer => ({
  id: 1,
  code,
  isTruncated: false,
  question: { name: 'a.example', type: 1 },
  spelled: 'a.example',
  records,
});
function ask(names: SandboxNames, name: string, type: number = DNS_TYPE.A) {
  const begun = names.begin({ name, type });
  if (begun.kind !== 'ask') throw new Error(`answered with code ${begun.reply.code}`);
  return begun.resolution;
}

describe('SandboxNames', () => {
  it('sends no query for a name that is not allowed', () => {
    const { names, events } = world();
    for (const name of [
      'b.example',
      'secret-data.attacker.example',
      'evil.w.example',
      'metadata.google.internal',
      '',
      '169.254.169.254',
      '2852039166',
      '0xa9fea9fe',
      'a.example.0x7f',
    ])
      for (const type of [DNS_TYPE.A, DNS_TYPE.AAAA, 16, DNS_TYPE.HTTPS])
        expect(names.begin({ name, type }), name).toEqual({ kind: 'reply', reply: { code: DNS_CODE.noName } });
    expect(new Set(events.map(({ outcome }) => outcome))).toEqual(new Set(['name_refused']));
  });
  it('returns addresses, and pins them for longer than the guest caches them', () => {
    const { names, pins, clock } = world();
    const step = ask(names, 'a.example').take(
      answer([a('a.example', '192.0.2.1', 10), a('a.example', '192.0.2.2', 300)]),
    );
    expect(step).toEqual({
      kind: 'done',
      reply: { code: 0, records: [a('a.example', '192.0.2.1', 10), a('a.example', '192.0.2.2', 10)] },
      pins: [
        { name: 'a.example', address: '192.0.2.1', seconds: 30 },
        { name: 'a.example', address: '192.0.2.2', seconds: 30 },
      ],
    });
    clock.advance(29_999);
    expect(pins.isPinned('a.example', '192.0.2.1')).toBe(true);
    const long = ask(names, 'a.example').take(answer([a('a.example', '192.0.2.1', 9999)]));
    expect(long).toMatchObject({ reply: { records: [{ ttlSeconds: 3595 }] }, pins: [{ seconds: 3600 }] });
  });
  it('returns no private address and no metadata service (rebinding)', () => {
    const { names, pins, events } = world({ hasIpv6: true });
    const mixed = ask(names, 'a.example').take(answer([a('a.example', '10.0.0.1'), a('a.example', '192.0.2.1')]));
    expect(mixed).toMatchObject({ reply: { code: 0, records: [{ address: '192.0.2.1' }] } });
    for (const address of ['10.0.0.1', '169.254.169.254', 'fd00:ec2::254', '::ffff:a9fe:a9fe']) {
      const type = address.includes(':') ? DNS_TYPE.AAAA : DNS_TYPE.A;
      const step = ask(names, 'x.w.example', type).take(answer([a('x.w.example', address)]));
      expect(step, address).toEqual({ kind: 'done', reply: { code: DNS_CODE.noName, records: [] }, pins: [] });
      expect(events.at(-1)).toMatchObject({ outcome: 'address_refused' });
    }
    expect(pins.addressesOf('x.w.example')).toEqual([]);
    expect(pins.addressesOf('a.example')).toEqual(['192.0.2.1']);
  });
  it('follows aliases and pins the final addresses for the requested name', () => {
    const { names, pins } = world();
    const step = ask(names, 'a.example').take(
      answer([
        a('cdn.example', '192.0.2.7', 60),
        cname('b.example', 'cdn.example', 40),
        cname('a.example', 'b.example', 50),
        a('unrelated.example', '192.0.2.66'),
      ]),
    );
    expect(step).toMatchObject({ reply: { records: [a('a.example', '192.0.2.7', 35)] } });
    expect(pins.addressesOf('a.example')).toEqual(['192.0.2.7']);
    expect(pins.addressesOf('cdn.example')).toEqual([]);
  });
  it('asks again if the upstream does not follow aliases, a bounded number of times', () => {
    const { names } = world();
    const resolution = ask(names, 'a.example');
    expect(resolution.take(answer([cname('a.example', 'c0.example')]))).toEqual({
      kind: 'ask',
      question: { name: 'c0.example', type: 1 },
    });
    let asks = 2;
    let step = resolution.take(answer([cname('c0.example', 'c1.example')]));
    while (step.kind === 'ask') {
      asks += 1;
      const at = step.question.name;
      step = resolution.take(answer([cname(at, `c${asks}.example`)]));
    }
    expect(asks).toBe(ASKS_MAX);
    expect(step).toMatchObject({ reply: { code: DNS_CODE.serverFailure } });
  });
  it('fails for a circle, a chain that is too long, and an alias that a rule denies', () => {
    const { names } = world();
    const circle = [cname('a.example', 'b.example'), cname('b.example', 'a.example')];
    const failed = { reply: { code: DNS_CODE.serverFailure } };
    expect(ask(names, 'a.example').take(answer(circle))).toMatchObject(failed);
    const chain = Array.from({ length: ALIASES_MAX + 1 }, (_, i) =>
      cname(i === 0 ? 'a.example' : `c${i}`, `c${i + 1}`),
    );
    const end = a(`c${ALIASES_MAX + 1}`, '192.0.2.1');
    expect(ask(names, 'a.example').take(answer([...chain, end]))).toMatchObject(failed);
    const denied = [cname('a.example', 'metadata.google.internal'), a('metadata.google.internal', '192.0.2.1')];
    expect(ask(names, 'a.example').take(answer(denied))).toMatchObject({
      reply: { code: DNS_CODE.noName, records: [] },
    });
  });
  it('returns an empty answer for unsupported types, without a query', () => {
    const { names } = world();
    for (const type of [DNS_TYPE.AAAA, DNS_TYPE.HTTPS, DNS_TYPE.SVCB, 16, 15, 2])
      expect(names.begin({ name: 'a.example', type })).toEqual({ kind: 'reply', reply: { code: DNS_CODE.ok } });
    for (const type of [252, DNS_TYPE.ANY])
      expect(names.begin({ name: 'a.example', type })).toEqual({
        kind: 'reply',
        reply: { code: DNS_CODE.notImplemented },
      });
  });
  it('limits queries per second and in flight, and releases both', () => {
    const limits = { queries: { size: 5, refillPerSecond: 1 }, inFlightMax: 2 };
    const { names, clock } = world({ limits });
    const one = ask(names, 'a.example');
    ask(names, 'a.example');
    const refused = { kind: 'reply', reply: { code: DNS_CODE.refused } };
    expect(names.begin({ name: 'a.example', type: 1 })).toEqual(refused);
    one.fail('');
    one.fail('twice');
    expect(names.inFlight).toBe(1);
    ask(names, 'a.example');
    expect(names.begin({ name: 'b.example', type: 1 }).kind).toBe('reply');
    expect(names.begin({ name: 'a.example', type: 16 })).toEqual(refused);
    clock.advance(1100);
    expect(names.begin({ name: 'a.example', type: 16 })).toMatchObject({ reply: { code: 0 } });
    expect(names.counts().get('query_limit')).toBe(2);
  });
  it('refuses more names than can be pinned', () => {
    const { names } = world();
    for (const n of [1, 2, 3]) ask(names, `${n}.w.example`).take(answer([a(`${n}.w.example`, '192.0.2.1')]));
    const step = ask(names, '4.w.example').take(answer([a('4.w.example', '192.0.2.1')]));
    expect(step).toMatchObject({ reply: { code: DNS_CODE.refused }, pins: [] });
  });
  it('applies a policy change at once', () => {
    const { names, pins } = world();
    ask(names, 'a.example').take(answer([a('a.example', '192.0.2.1')]));
    const underWay = ask(names, 'a.example');
    names.setPolicy(listPolicy({ names: ['b.example'] }));
    expect(pins.addressesOf('a.example')).toEqual([]);
    const step = underWay.take(answer([a('a.example', '192.0.2.1')]));
    expect(step).toMatchObject({ reply: { code: DNS_CODE.noName }, pins: [] });
  });
  it('passes on "no such name" and "no such record", and failures as failures', () => {
    const { names } = world();
    const code = (given: DnsAnswer) => ask(names, 'a.example').take(given);
    expect(code(answer([], DNS_CODE.noName))).toMatchObject({ reply: { code: DNS_CODE.noName } });
    expect(code(answer([]))).toMatchObject({ reply: { code: DNS_CODE.ok, records: [] } });
    expect(code(answer([], DNS_CODE.refused))).toMatchObject({ reply: { code: DNS_CODE.serverFailure } });
  });
});

describe('isAnswerTo', () => {
  const asked = { id: 1, spelled: 'a.eXample', type: 1 };
  const given = { ...answer([]), spelled: 'a.eXample' };
  it('requires id and question, and over UDP the exact case of the letters', () => {
    expect(isAnswerTo(given, asked, 'udp')).toBe(true);
    expect(isAnswerTo({ ...given, id: 2 }, asked, 'udp')).toBe(false);
    expect(isAnswerTo({ ...given, spelled: 'a.example' }, asked, 'udp')).toBe(false);
    expect(isAnswerTo({ ...given, spelled: 'a.example' }, asked, 'tcp')).toBe(true);
    expect(isAnswerTo(given, { ...asked, type: 28 }, 'tcp')).toBe(false);
    expect(isAnswerTo(given, { ...asked, spelled: 'b.example' }, 'tcp')).toBe(false);
  });
  it('spellAtRandom: changes only the case of a name', () => {
    let flip = false;
    const spelled = spellAtRandom('a-1.example', () => {
      flip = !flip;
      return flip;
    });
    expect(spelled).toBe('A-1.eXaMpLe');
  });
});
