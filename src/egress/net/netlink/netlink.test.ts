import { describe, expect, it } from 'vitest';
import { newSandboxId } from '../../../base/ids.ts';
import { Links, type NetlinkTransport } from '../link/links.ts';
import { formatOwner, parseOwner } from '../link/owner.ts';
import { encodeAttributes, findAttribute, parseAttributes, u8, u32 } from './attribute.ts';
import { DUMP_MESSAGES_MAX, NetlinkExchange } from './exchange.ts';
import { CONTROL, encodeMessage, FLAG, type Message, parseAcknowledgement, parseMessages } from './message.ts';
import { changeLink, dumpLinks, getLink, LINK_TYPE } from './rtnetlink-link.ts';

const bytesOf = (hex: string): Uint8Array => new Uint8Array(Buffer.from(hex, 'hex'));
const malformed = expect.objectContaining({ code: 'malformed' });

/** Answer of Linux 6.18 to a second `ip addr add`, captured with strace. */
const REFUSAL = bytesOf(
  '6000000002000002ca70076bcf1a0000efffffff2800000014000506ca70076b00000000021e000002000000080002000ac90001080001000ac9000123000100697076343a204164647265737320616c72656164792061737369676e65640000',
);
/** End of a dump from Linux 6.18. */
const DONE = bytesOf('1400000003002200cb70076bb71a000000000000');

describe('netlink messages', () => {
  it('parseAcknowledgement: reads errno and text after the whole request, as the kernel writes them', () => {
    const [message] = parseMessages(REFUSAL);
    expect(message).toMatchObject({ type: CONTROL.error, sequence: 0x6b0770ca, portId: 0x1acf });
    expect(message && parseAcknowledgement(message)).toEqual({ errno: 17, text: 'ipv4: Address already assigned' });
  });

  it('parseAcknowledgement: reads a capped request, a text and the offset of the error', () => {
    const attributes = encodeAttributes([
      [1, new TextEncoder().encode('no\0')],
      [2, u32(24)],
    ]);
    const body = new Uint8Array([0xea, 0xff, 0xff, 0xff, ...new Uint8Array(16), ...attributes]);
    const flags = FLAG.capped | FLAG.ackAttributes;
    const message = { type: CONTROL.error, flags, sequence: 1, portId: 2, body };
    expect(parseAcknowledgement(message)).toEqual({ errno: 22, text: 'no', offset: 24 });
    // Without the attribute flag, attributes are ignored.
    expect(parseAcknowledgement({ ...message, flags: FLAG.capped })).toEqual({ errno: 22 });
  });

  it('parseAcknowledgement: reads the end of a dump', () => {
    const [message] = parseMessages(DONE);
    expect(message && parseAcknowledgement(message)).toEqual({ errno: 0 });
  });

  it.each([
    ['half a header', '1000000002'],
    ['a length below the header', '0f000000020000000000000000000000'],
    ['a length beyond the datagram', '14000000020000000000000000000000'],
    ['bytes after the last message', '1000000002000000000000000000000000'],
  ])('parseMessages: %s is malformed', (_name, hex) => {
    expect(() => parseMessages(bytesOf(hex))).toThrow(malformed);
  });

  it.each([
    ['no errno', '0000', 0],
    ['an errno above 0', `01000000${'00'.repeat(16)}`, FLAG.capped],
    ['no request', '00000000', FLAG.ackAttributes],
    ['a request beyond the body', `00000000ff000000${'00'.repeat(12)}`, FLAG.ackAttributes],
    ['a request of no length', `00000000${'00'.repeat(16)}`, FLAG.ackAttributes],
  ])('parseAcknowledgement: %s is malformed', (_name, hex, flags) => {
    const message = { type: CONTROL.error, flags, sequence: 0, portId: 0, body: bytesOf(hex) };
    expect(() => parseAcknowledgement(message)).toThrow(malformed);
  });
});

describe('netlink attributes', () => {
  it('encodeAttributes: pads, nests and flags', () => {
    const bytes = encodeAttributes([
      [3, u8(7)],
      [18, [[1, new Uint8Array([1, 2])]]],
    ]);
    expect(Buffer.from(bytes).toString('hex')).toBe('0500030007000000' + '0c001280' + '0600010001020000');
  });

  it('parseAttributes: strips flags off the type; findAttribute returns the last of several', () => {
    const attributes = parseAttributes(bytesOf('04000380' + '04000440' + '0500030009000000'));
    expect(attributes.map(({ type, nested, networkOrder }) => [type, nested, networkOrder])).toEqual([
      [3, true, false],
      [4, false, true],
      [3, false, false],
    ]);
    expect(findAttribute(attributes, 3)).toEqual(u8(9));
    expect(findAttribute(attributes, 5)).toBeUndefined();
  });

  it.each([
    ['a length of 3', '03000100'],
    ['a length beyond the end', '09000100ff000000'],
    ['a cut header', '0400010004'],
  ])('parseAttributes: %s is malformed', (_name, hex) => {
    expect(() => parseAttributes(bytesOf(hex))).toThrow(malformed);
  });

  it('encodeAttributes: refuses a value too long for its length field', () => {
    expect(() => encodeAttributes([[1, new Uint8Array(65_532)]])).toThrow(RangeError);
  });
});

const SEQUENCE = 5;
const PORT = 77;
const answer = (change: Partial<Message>): Uint8Array =>
  encodeMessage({
    type: LINK_TYPE.new,
    flags: FLAG.multi,
    sequence: SEQUENCE,
    portId: PORT,
    body: new Uint8Array(16),
    ...change,
  });
const done = answer({ type: CONTROL.done, body: new Uint8Array(4) });
const refusal = (errno: number, change: Partial<Message> = {}): Uint8Array => {
  const body = new Uint8Array(20);
  new DataView(body.buffer).setInt32(0, -errno, true);
  return answer({ type: CONTROL.error, flags: FLAG.capped, body, ...change });
};

describe('NetlinkExchange', () => {
  it('reads a dump over several datagrams until DONE', () => {
    const exchange = new NetlinkExchange(dumpLinks(), SEQUENCE, PORT);
    exchange.receive(new Uint8Array([...answer({}), ...answer({})]));
    expect(exchange.outcome).toBeUndefined();
    exchange.receive(answer({}));
    exchange.receive(done);
    expect(exchange.outcome).toMatchObject({ kind: 'done', interrupted: false });
    expect(exchange.outcome?.kind === 'done' && exchange.outcome.messages).toHaveLength(3);
  });

  it('reports an interrupted dump', () => {
    const exchange = new NetlinkExchange(dumpLinks(), SEQUENCE, PORT);
    exchange.receive(answer({ flags: FLAG.multi | FLAG.dumpInterrupted }));
    exchange.receive(done);
    expect(exchange.outcome).toMatchObject({ kind: 'done', interrupted: true });
  });

  it('ignores answers with another sequence or port', () => {
    const exchange = new NetlinkExchange(changeLink(1, { up: true }), SEQUENCE, PORT);
    exchange.receive(refusal(17, { sequence: SEQUENCE - 1 }));
    exchange.receive(refusal(17, { portId: PORT + 1 }));
    expect(exchange.outcome).toBeUndefined();
    exchange.receive(refusal(0));
    expect(exchange.outcome).toMatchObject({ kind: 'done', messages: [] });
  });

  it('accepts one message or a refusal as the answer about one link', () => {
    const found = new NetlinkExchange(getLink('lo'), SEQUENCE, PORT);
    found.receive(answer({ flags: 0 }));
    expect(found.outcome).toMatchObject({ kind: 'done' });
    const missing = new NetlinkExchange(getLink('lo'), SEQUENCE, PORT);
    missing.receive(refusal(19));
    expect(missing.outcome).toMatchObject({ kind: 'refused', acknowledgement: { errno: 19 } });
  });

  it('gives up a dump without end', () => {
    const exchange = new NetlinkExchange(dumpLinks(), SEQUENCE, PORT);
    const some = answer({ body: new Uint8Array(0) });
    const datagram = new Uint8Array(some.length * 1000);
    for (let at = 0; at < datagram.length; at += some.length) datagram.set(some, at);
    expect(() => {
      for (let sent = 0; sent <= DUMP_MESSAGES_MAX; sent += 1000) exchange.receive(datagram);
    }).toThrow(expect.objectContaining({ code: 'unreadable' }));
  });
});

class ScriptedKernel implements NetlinkTransport {
  readonly portId = PORT;
  readonly requests: Message[] = [];
  readonly #reply: (request: Message, index: number) => Uint8Array[];
  #queue: Uint8Array[] = [];

  constructor(reply: (request: Message, index: number) => Uint8Array[]) {
    this.#reply = reply;
  }

  send(bytes: Uint8Array): void {
    const [request] = parseMessages(bytes);
    if (request === undefined) throw new Error('an empty request');
    this.requests.push(request);
    this.#queue.push(...this.#reply(request, this.requests.length - 1));
  }

  receive(): Uint8Array | undefined {
    return this.#queue.shift();
  }

  close(): void {
    this.#queue = [];
  }
}

describe('Links', () => {
  it('reads an interrupted dump again, with a new sequence number', () => {
    const kernel = new ScriptedKernel(({ sequence }, index) => [
      answer({ sequence, flags: index < 2 ? FLAG.multi | FLAG.dumpInterrupted : FLAG.multi }),
      answer({ sequence, type: CONTROL.done, body: new Uint8Array(4) }),
    ]);
    expect(new Links(kernel).list()).toHaveLength(1);
    expect(kernel.requests.map(({ sequence }) => sequence)).toEqual([1, 2, 3]);
  });

  it('reports a table that always changes as unreadable', () => {
    const kernel = new ScriptedKernel(({ sequence }) => [
      answer({ sequence, flags: FLAG.dumpInterrupted }),
      answer({ sequence, type: CONTROL.done, body: new Uint8Array(4) }),
    ]);
    expect(() => new Links(kernel).list()).toThrow(
      expect.objectContaining({ code: 'unreadable', remedy: 'Try again.' }),
    );
  });

  it.each([
    [17, 'exists'],
    [19, 'not_found'],
    [1, 'not_permitted'],
    [16, 'busy'],
    [95, 'unsupported'],
    [22, 'invalid'],
    [100, 'unreachable'],
    [12, 'failed'],
  ])('maps errno %i to %s', (errno, code) => {
    const kernel = new ScriptedKernel(({ sequence }) => [refusal(errno, { sequence })]);
    expect(() => new Links(kernel).remove(4)).toThrow(expect.objectContaining({ code, message: 'remove link 4' }));
  });

  it('has the kernel’s text as the cause of an error', () => {
    const text = encodeAttributes([[1, new TextEncoder().encode('too big\0')]]);
    const body = new Uint8Array([0xea, 0xff, 0xff, 0xff, ...new Uint8Array(16), ...text]);
    const flags = FLAG.capped | FLAG.ackAttributes;
    const kernel = new ScriptedKernel(({ sequence }) => [answer({ sequence, type: CONTROL.error, flags, body })]);
    expect(() => new Links(kernel).change(4, { mtu: 9 })).toThrow(
      expect.objectContaining({
        message: 'set mtu 9 of link 4',
        cause: expect.objectContaining({ message: 'kernel, "too big": EINVAL', code: 'EINVAL' }),
      }),
    );
  });

  it('reports a missing or endless answer as malformed, without waiting for it', () => {
    expect(() => new Links(new ScriptedKernel(() => [])).list()).toThrow(malformed);
    const endless = new ScriptedKernel(({ sequence }) => [answer({ sequence })]);
    expect(() => new Links(endless).list()).toThrow(malformed);
  });
});

describe('link owner', () => {
  const owner = { sandboxId: newSandboxId(), pid: 4711, startTicks: '123456' };

  it('reads back what it writes', () => {
    expect(parseOwner(formatOwner(owner))).toEqual(owner);
    expect(formatOwner(owner).length).toBeLessThan(100);
  });

  it.each([
    undefined,
    '',
    'uplink',
    'neurovisor',
    `neurovisor:short:1.2`,
    `neurovisor:${owner.sandboxId}:0.2`,
    `neurovisor:${owner.sandboxId}:1`,
    `neurovisor:${owner.sandboxId}:1.2 `,
    `x neurovisor:${owner.sandboxId}:1.2`,
    `neurovisor:${owner.sandboxId.toUpperCase()}:1.2`,
  ])('"%s" is not ours', (alias) => {
    expect(parseOwner(alias)).toBeUndefined();
  });
});
