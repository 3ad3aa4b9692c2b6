/** DNS messages from guests and upstreams: parsing any bytes ends within bounds, and encoding round-trips. */
import fc from 'fast-check';
import { isCanonicalName } from '../../src/egress/net/addresses/host-name.ts';
import {
  type DnsRecord,
  encodeQuery,
  encodeReply,
  parseAnswer,
  parseQuery,
  RECORDS_MAX,
} from '../../src/egress/net/dns/message.ts';
import { must, structured } from './target.ts';

const label = fc.stringMatching(/^[a-zA-Z0-9_-]{1,63}$/);
const name = fc
  .array(label, { minLength: 1, maxLength: 6 })
  .map((labels) => labels.join('.').slice(0, 253).replace(/\.$/, ''));
const ttlSeconds = fc.integer({ min: 0, max: 0x7fff_ffff });
const address = fc
  .uint8Array({ minLength: 4, maxLength: 4 })
  .map((bytes) => ({ type: 'A' as const, address: bytes.join('.') }));
const address6 = fc
  .array(fc.oneof(fc.constant(0), fc.nat(0xffff)), { minLength: 8, maxLength: 8 })
  .map((words) => ({
    type: 'AAAA' as const,
    address: new URL(`http://[${words.map((w) => w.toString(16)).join(':')}]`).hostname.slice(1, -1),
  }));
const alias = name.map((text) => ({ type: 'CNAME' as const, target: text.toLowerCase() }));

const exchange = fc.record({
  id: fc.nat(0xffff),
  name,
  type: fc.constantFrom(1, 5, 28),
  records: fc.array(fc.tuple(fc.oneof(address, address6, alias), ttlSeconds), { maxLength: 20 }),
});
/** Bytes biased toward names, pointers and records. */
const soup = fc
  .array(
    fc.oneof(
      fc.constantFrom([0xc0, 12], [0xc0, 0], [0xc0, 30], [0, 1, 0, 1], [0, 5, 0, 1], [0], [3, 97, 98, 99]),
      fc.constantFrom([0, 0, 0, 60, 0, 4, 1, 2, 3, 4], [0, 28, 0, 1], [63], [64], [0xff, 0xff]),
      fc.array(fc.nat(255), { maxLength: 6 }),
    ),
    { maxLength: 60 },
  )
  .map((parts) => parts.flat());
const hostile = fc.record({
  head: fc.constantFrom([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], [0, 1, 0x81, 0x80, 0, 1, 0, 9, 0, 0, 0, 0]),
  rest: soup,
});

function checkHostile(bytes: Uint8Array): void {
  const before = Buffer.from(bytes).toString('hex');
  const query = parseQuery(bytes);
  if (query.ok) {
    const { question, wire } = query.value;
    must(question.name === '' || isCanonicalName(question.name), `name ${question.name}`);
    must(encodeReply(query.value, { code: 3 }, 512).length <= 512, 'a long reply');
    must(wire.length <= 255 + 4, 'a long question');
  }
  const answer = parseAnswer(bytes);
  if (answer.ok) {
    must(answer.value.records.length <= RECORDS_MAX, 'many records');
    for (const record of answer.value.records) {
      const text = record.type === 'CNAME' ? record.target : record.name;
      must(text === '' || isCanonicalName(text), `name ${text}`);
    }
  }
  must(Buffer.from(bytes).toString('hex') === before, 'input was changed');
}

export const dns = structured(
  'dns',
  fc.record({ exchange, hostile, bytes: fc.uint8Array({ maxLength: 200 }), at: fc.nat(), value: fc.nat(255) }),
  (input) => {
    checkHostile(input.bytes);
    checkHostile(Uint8Array.from([...input.hostile.head, ...input.hostile.rest]));
    const { id, type } = input.exchange;
    const question = encodeQuery(id, input.exchange.name, type);
    const query = parseQuery(question);
    must(query.ok, 'own query not read');
    const lower = input.exchange.name.toLowerCase();
    must(query.value.id === id && query.value.question.name === lower, 'another question');
    const records = input.exchange.records.map(([data, ttl]): DnsRecord => ({ ...data, name: lower, ttlSeconds: ttl }));
    const reply = encodeReply(query.value, { code: 0, records }, 16 * 1024);
    const answer = parseAnswer(reply);
    must(answer.ok, 'own reply not read');
    must(answer.value.spelled === input.exchange.name, 'spelled in another way');
    const same = (one: readonly DnsRecord[]): string => JSON.stringify(one.map((each) => Object.entries(each).sort()));
    must(same(answer.value.records) === same(records), 'other records');
    for (const bytes of [question, reply]) {
      const changed = bytes.slice();
      changed[input.at % changed.length] = input.value;
      checkHostile(changed);
      checkHostile(bytes.subarray(0, input.at % bytes.length));
    }
  },
);
