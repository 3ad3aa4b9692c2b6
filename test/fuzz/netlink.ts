/** Any datagram as an answer of the kernel: parsed, or a typed error; encoding round-trips. */
import fc from 'fast-check';
import { decodeIp, encodeIp } from '../../src/egress/net/netlink/address.ts';
import {
  type Attribute,
  type AttributeSpec,
  encodeAttributes,
  parseAttributes,
} from '../../src/egress/net/netlink/attribute.ts';
import { LinkError } from '../../src/egress/net/netlink/errors.ts';
import { NetlinkExchange } from '../../src/egress/net/netlink/exchange.ts';
import { encodeMessage, parseAcknowledgement, parseMessages } from '../../src/egress/net/netlink/message.ts';
import { parseAddress } from '../../src/egress/net/netlink/rtnetlink-address.ts';
import { dumpLinks, parseLink } from '../../src/egress/net/netlink/rtnetlink-link.ts';
import { parseRoute } from '../../src/egress/net/netlink/rtnetlink-route.ts';
import { must, structured } from './target.ts';

const SEQUENCE = 9;
const PORT = 3;
const u16 = fc.nat({ max: 0xffff });
const u32 = fc.nat({ max: 0xffffffff });
const flat = fc.tuple(fc.nat({ max: 0x3fff }), fc.uint8Array({ maxLength: 40 }));
const specs: fc.Arbitrary<readonly AttributeSpec[]> = fc.array(
  fc.oneof(flat, fc.tuple(fc.nat({ max: 0x3fff }), fc.array(flat, { maxLength: 4 }))),
  { maxLength: 8 },
);
/** Messages with valid frames, so that their contents are parsed. */
const framed = fc
  .array(
    fc.record({
      type: fc.oneof(fc.constantFrom(1, 2, 3, 4, 16, 20, 24, 28), u16),
      flags: fc.oneof(fc.constantFrom(0, 2, 0x12, 0x100, 0x200, 0x300), u16),
      sequence: fc.oneof(fc.constant(SEQUENCE), u32),
      portId: fc.oneof(fc.constant(PORT), u32),
      body: fc.oneof(
        fc.uint8Array({ maxLength: 120 }),
        fc
          .tuple(fc.constantFrom(0, 4, 8, 12, 16, 20), fc.constantFrom(0, 2, 10), specs)
          .map(([struct, family, inside]) => {
            const bytes = new Uint8Array([...new Uint8Array(struct), ...encodeAttributes(inside)]);
            if (struct > 0) bytes[0] = family;
            return bytes;
          }),
      ),
    }),
    { maxLength: 5 },
  )
  .map((messages) => ({ messages, bytes: new Uint8Array(messages.flatMap((message) => [...encodeMessage(message)])) }));

export const netlink = structured(
  'netlink',
  fc.record({ framed, noise: fc.uint8Array({ maxLength: 200 }), at: fc.nat(), flip: fc.nat({ max: 255 }), specs }),
  ({ framed: { messages, bytes }, noise, at, flip, specs: attributes }) => {
    const back = parseMessages(bytes);
    must(back.length === messages.length, 'messages are lost');
    for (const [index, message] of back.entries()) {
      const sent = messages[index];
      must(JSON.stringify(message) === JSON.stringify(sent), `message ${index} has changed`);
    }
    mustAgree(attributes, parseAttributes(encodeAttributes(attributes)));
    const broken = bytes.slice();
    if (broken.length > 0) broken[at % broken.length] = flip;
    for (const datagram of [bytes, broken, bytes.subarray(0, at % (bytes.length + 1)), noise]) readAll(datagram);
  },
);

function mustAgree(specs: readonly AttributeSpec[], read: readonly Attribute[]): void {
  must(read.length === specs.length, 'attributes are lost');
  for (const [index, [type, value]] of specs.entries()) {
    const attribute = read[index];
    must(attribute?.type === type, `type of attribute ${index}`);
    const isBytes = value instanceof Uint8Array;
    must(attribute.nested === !isBytes, `flag of attribute ${index}`);
    if (!isBytes) mustAgree(value, parseAttributes(attribute.value));
    else must(Buffer.compare(attribute.value, value) === 0, `value of attribute ${index}`);
  }
}

function readAll(datagram: Uint8Array): void {
  typed(() => {
    const exchange = new NetlinkExchange(dumpLinks(), SEQUENCE, PORT);
    exchange.receive(datagram);
    exchange.receive(datagram);
  });
  typed(() => {
    for (const message of parseMessages(datagram)) {
      typed(() => parseAcknowledgement(message));
      typed(() => parseLink(message.body));
      typed(() => mustReadBack(parseAddress(message.body)?.address));
      typed(() => mustReadBack(parseRoute(message.body)?.gateway));
    }
  });
}

function mustReadBack(ip: string | undefined): void {
  if (ip !== undefined) must(decodeIp(encodeIp(ip)) === ip, `${ip} does not read back`);
}

function typed(read: () => unknown): void {
  try {
    read();
  } catch (error) {
    const isTyped = error instanceof LinkError && (error.code === 'malformed' || error.code === 'unreadable');
    if (!isTyped) throw error;
  }
}
