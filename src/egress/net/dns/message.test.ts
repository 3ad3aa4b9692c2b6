import { describe, expect, it } from 'vitest';
import {
  DNS_CODE,
  DNS_TYPE,
  encodeFailure,
  encodeQuery,
  encodeReply,
  parseAnswer,
  parseQuery,
  udpReplyBytesMax,
} from './message.ts';

const hex = (text: string): Uint8Array => new Uint8Array(Buffer.from(text.replace(/\s/g, ''), 'hex'));

/** Sent by `dig +noedns example.com A`. */
const QUERY = hex('1234 0120 0001 0000 0000 0000 076578616d706c6503636f6d00 0001 0001');
/** www.example.com: a CNAME and two addresses, names compressed, as BIND answers. */
const ANSWER = hex(`
  1234 8180 0001 0003 0000 0000
  03777777 076578616d706c6503636f6d00 0001 0001
  c00c 0005 0001 00000e10 0006 0363646e c010
  c02d 0001 0001 0000003c 0004 c0000201
  c02d 0001 0001 0000003c 0004 c0000202`);

function query(bytes: Uint8Array) {
  const parsed = parseQuery(bytes);
  if (!parsed.ok) throw new Error(parsed.reason);
  return parsed.value;
}

describe('parseQuery', () => {
  it('reads a question', () => {
    expect(query(QUERY)).toMatchObject({
      id: 0x1234,
      question: { name: 'example.com', type: 1 },
      isRecursionDesired: true,
      udpPayloadBytes: undefined,
    });
  });
  it('reads an EDNS question of its own, in lower case', () => {
    const read = query(encodeQuery(7, 'eXample.COM', DNS_TYPE.AAAA));
    expect(read.question).toEqual({ name: 'example.com', type: 28 });
    expect(udpReplyBytesMax(read)).toBe(1232);
    expect(Buffer.from(read.wire).toString('latin1')).toContain('eXample');
  });
  it('names the problem', () => {
    const changed = (at: number, value: number): Uint8Array => {
      const copy = QUERY.slice();
      copy[at] = value;
      return copy;
    };
    expect(parseQuery(QUERY.subarray(0, 11))).toEqual({ ok: false, reason: 'short' });
    expect(parseQuery(changed(2, 0x81))).toEqual({ ok: false, reason: 'not_a_query' });
    const id = 0x1234;
    expect(parseQuery(changed(2, 0x29))).toEqual({ ok: false, reason: 'opcode', id });
    expect(parseQuery(changed(5, 2))).toEqual({ ok: false, reason: 'counts', id });
    expect(parseQuery(changed(5, 0))).toEqual({ ok: false, reason: 'counts', id });
    expect(parseQuery(changed(12, 0xc0))).toEqual({ ok: false, reason: 'name', id });
    expect(parseQuery(changed(12, 64))).toEqual({ ok: false, reason: 'name', id });
    expect(parseQuery(changed(14, 0x2e))).toEqual({ ok: false, reason: 'name', id });
    expect(parseQuery(changed(14, 0))).toEqual({ ok: false, reason: 'name', id });
    expect(parseQuery(changed(28, 3))).toEqual({ ok: false, reason: 'class', id });
    expect(parseQuery(QUERY.subarray(0, -1))).toEqual({ ok: false, reason: 'class', id });
    expect(parseQuery(changed(11, 1))).toEqual({ ok: false, reason: 'record', id });
    const long = new Uint8Array(1025);
    long.set(QUERY);
    expect(parseQuery(long)).toEqual({ ok: false, reason: 'long', id });
  });
});

describe('parseAnswer', () => {
  it('reads aliases and addresses behind compressed names', () => {
    expect(parseAnswer(ANSWER)).toEqual({
      ok: true,
      value: {
        id: 0x1234,
        code: 0,
        isTruncated: false,
        question: { name: 'www.example.com', type: 1 },
        spelled: 'www.example.com',
        records: [
          { type: 'CNAME', name: 'www.example.com', ttlSeconds: 3600, target: 'cdn.example.com' },
          { type: 'A', name: 'cdn.example.com', ttlSeconds: 60, address: '192.0.2.1' },
          { type: 'A', name: 'cdn.example.com', ttlSeconds: 60, address: '192.0.2.2' },
        ],
      },
    });
  });
  it('follows no pointer forwards or in a circle', () => {
    const at = 33; // The owner of the first record.
    for (const target of [at, at + 1, 0xff]) {
      const copy = ANSWER.slice();
      copy[at + 1] = target;
      expect(parseAnswer(copy)).toEqual({ ok: false, reason: 'record' });
    }
  });
  it('refuses an address of the wrong length and a truncated record', () => {
    const copy = ANSWER.slice();
    copy[ANSWER.length - 5] = 3;
    expect(parseAnswer(copy)).toEqual({ ok: false, reason: 'record' });
    expect(parseAnswer(ANSWER.subarray(0, -1))).toEqual({ ok: false, reason: 'record' });
  });
  it('refuses more records than are read', () => {
    const copy = ANSWER.slice();
    copy[6] = 0x02;
    expect(parseAnswer(copy)).toEqual({ ok: false, reason: 'counts' });
  });
});

describe('encodeReply', () => {
  it('encodes records that are read back', () => {
    const asked = query(encodeQuery(9, 'Example.com', DNS_TYPE.AAAA));
    const records = [
      { type: 'AAAA', name: 'example.com', ttlSeconds: 70_000, address: '2001:db8::1:0:0:2' },
      { type: 'AAAA', name: 'example.com', ttlSeconds: 5, address: '::' },
    ] as const;
    const bytes = encodeReply(asked, { code: DNS_CODE.ok, records }, 1232);
    const read = parseAnswer(bytes);
    expect(read).toMatchObject({ ok: true, value: { id: 9, code: 0, spelled: 'Example.com', records } });
  });
  it('truncates a reply that does not fit, and drops its records', () => {
    const asked = query(QUERY);
    const records = Array.from({ length: 40 }, (_, i) => ({
      type: 'A' as const,
      name: 'example.com',
      ttlSeconds: 60,
      address: `192.0.2.${i}`,
    }));
    const bytes = encodeReply(asked, { code: DNS_CODE.ok, records }, udpReplyBytesMax(asked));
    expect(bytes.length).toBe(QUERY.length);
    expect(parseAnswer(bytes)).toMatchObject({ ok: true, value: { isTruncated: true, records: [] } });
  });
  it('produces golden bytes', () => {
    const records = [{ type: 'A', name: 'example.com', ttlSeconds: 60, address: '192.0.2.1' }] as const;
    const bytes = encodeReply(query(QUERY), { code: DNS_CODE.ok, records }, 512);
    expect(Buffer.from(bytes).toString('hex')).toBe(
      Buffer.from(
        hex(`1234 8180 0001 0001 0000 0000 076578616d706c6503636f6d00 0001 0001
             c00c 0001 0001 0000003c 0004 c0000201`),
      ).toString('hex'),
    );
    expect(Buffer.from(encodeFailure(1, DNS_CODE.formatError)).toString('hex')).toBe('000180810000000000000000');
  });
});
