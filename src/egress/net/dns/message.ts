/**
 * DNS messages (RFC 1035 section 4, RFC 6891), as far as a resolver for sandboxes needs them. Pure.
 *
 *     header (12 bytes): id · flags · 4 counts │ question │ answers │ authority │ additional
 *
 * Parsers return problems instead of throwing. They follow at most as many compression pointers as a name can have
 * labels, each strictly backwards, and never read beyond the message.
 */
import { assert } from '../../../base/assert.ts';
import { formatAddress, parseAddress } from '../addresses/addresses.ts';
import { isCanonicalName, LABEL_CHARACTERS_MAX, NAME_CHARACTERS_MAX } from '../addresses/host-name.ts';

/** RFC 1035 section 3.2.2, RFC 3596, RFC 9460, RFC 6891. */
export const DNS_TYPE = { A: 1, CNAME: 5, AAAA: 28, OPT: 41, SVCB: 64, HTTPS: 65, IXFR: 251, ANY: 255 } as const;
const CLASS_IN = 1;

/** RFC 1035 section 4.1.1. */
export const DNS_CODE = { ok: 0, formatError: 1, serverFailure: 2, noName: 3, notImplemented: 4, refused: 5 } as const;
type DnsCode = (typeof DNS_CODE)[keyof typeof DNS_CODE];

const DNS_HEADER_BYTES = 12;
/** Without EDNS, RFC 1035 section 4.2.1. */
const UDP_PAYLOAD_BYTES_MIN = 512;
/** Limit for sending and accepting by UDP, so that nothing is fragmented (DNS flag day 2020). */
const UDP_PAYLOAD_BYTES_MAX = 1232;
/** One question, with room for EDNS options. */
export const QUERY_BYTES_MAX = 1024;
export const ANSWER_BYTES_MAX = 16 * 1024;
export const RECORDS_MAX = 256;

const FLAG_RESPONSE = 0x8000;
const FLAG_TRUNCATED = 0x0200;
const FLAG_RECURSION_DESIRED = 0x0100;
const FLAG_RECURSION_AVAILABLE = 0x0080;
const POINTER = 0xc0;
const TTL_SECONDS_MAX = 0x7fff_ffff;

export interface DnsQuestion {
  /** Canonical: lower case, no trailing dot; '' is the root. */
  readonly name: string;
  readonly type: number;
}

export interface DnsQuery {
  readonly id: number;
  readonly question: DnsQuestion;
  /** The question as received, for the echo: clients may mix its case on purpose (0x20). */
  readonly wire: Uint8Array;
  readonly isRecursionDesired: boolean;
  /** Limit of a UDP reply to the client, in bytes; undefined without EDNS. */
  readonly udpPayloadBytes: number | undefined;
}

export type DnsRecord =
  | { readonly type: 'A' | 'AAAA'; readonly name: string; readonly ttlSeconds: number; readonly address: string }
  | { readonly type: 'CNAME'; readonly name: string; readonly ttlSeconds: number; readonly target: string };

export interface DnsAnswer {
  readonly id: number;
  readonly code: number;
  readonly isTruncated: boolean;
  readonly question: DnsQuestion;
  /** The name as spelled in the answer, for the 0x20 check. */
  readonly spelled: string;
  /** From the answer section; other types are dropped. */
  readonly records: readonly DnsRecord[];
}

type DnsProblem =
  | 'short'
  | 'long'
  | 'not_a_query'
  | 'not_an_answer'
  | 'opcode'
  | 'counts'
  | 'name'
  | 'class'
  | 'edns'
  | 'record';

type DnsParsed<T> =
  | { readonly ok: true; readonly value: T }
  /** `id` is set if the header is complete and belongs to a query, so that it can be answered with a code. */
  | { readonly ok: false; readonly reason: DnsProblem; readonly id?: number };

/** Parses a client's message, which may have one question and EDNS. */
export function parseQuery(bytes: Uint8Array): DnsParsed<DnsQuery> {
  if (bytes.length < DNS_HEADER_BYTES) return { ok: false, reason: 'short' };
  const reader = new Reader(bytes);
  const header = reader.header();
  const { id, flags } = header;
  if ((flags & FLAG_RESPONSE) !== 0) return { ok: false, reason: 'not_a_query' };
  const bad = (reason: DnsProblem): DnsParsed<never> => ({ ok: false, reason, id });
  if (bytes.length > QUERY_BYTES_MAX) return bad('long');
  if (((flags >> 11) & 15) !== 0) return bad('opcode');
  if (header.questions !== 1 || header.answers !== 0 || header.authorities !== 0) return bad('counts');
  if (header.additionals > 2) return bad('counts');
  // The first name of a message can't be compressed, since nothing precedes it.
  const name = reader.name({ isPlain: true });
  const type = reader.u16();
  const questionClass = reader.u16();
  if (name === undefined || type === undefined) return bad('name');
  if (questionClass !== CLASS_IN) return bad('class');
  const wire = bytes.slice(DNS_HEADER_BYTES, reader.at);
  let udpPayloadBytes: number | undefined;
  for (let i = 0; i < header.additionals; i += 1) {
    const record = reader.recordHead();
    if (record === undefined) return bad('record');
    reader.at = record.end;
    if (record.type !== DNS_TYPE.OPT) continue;
    // RFC 6891 section 6.1.1: at most one, owned by the root.
    if (udpPayloadBytes !== undefined || record.name !== '') return bad('edns');
    udpPayloadBytes = Math.max(UDP_PAYLOAD_BYTES_MIN, record.class);
  }
  const isRecursionDesired = (flags & FLAG_RECURSION_DESIRED) !== 0;
  const question = { name: name.toLowerCase(), type };
  return { ok: true, value: { id, question, wire, isRecursionDesired, udpPayloadBytes } };
}

/** Parses an upstream's message. Ignores records outside of the answer section. */
export function parseAnswer(bytes: Uint8Array): DnsParsed<DnsAnswer> {
  const bad = (reason: DnsProblem): DnsParsed<never> => ({ ok: false, reason });
  if (bytes.length < DNS_HEADER_BYTES) return bad('short');
  if (bytes.length > ANSWER_BYTES_MAX) return bad('long');
  const reader = new Reader(bytes);
  const { id, flags, questions, answers } = reader.header();
  if ((flags & FLAG_RESPONSE) === 0) return bad('not_an_answer');
  if (((flags >> 11) & 15) !== 0) return bad('opcode');
  if (questions !== 1 || answers > RECORDS_MAX) return bad('counts');
  const spelled = reader.name({ isPlain: true });
  const type = reader.u16();
  if (spelled === undefined || type === undefined) return bad('name');
  if (reader.u16() !== CLASS_IN) return bad('class');
  const isTruncated = (flags & FLAG_TRUNCATED) !== 0;
  const records: DnsRecord[] = [];
  for (let i = 0; i < answers && !isTruncated; i += 1) {
    const record = reader.record();
    if (record === undefined) return bad('record');
    if (record !== 'other') records.push(record);
  }
  const question = { name: spelled.toLowerCase(), type };
  return { ok: true, value: { id, code: flags & 15, isTruncated, question, spelled, records } };
}

/** A question to an upstream. @param spelled the name in the case to send, without a trailing dot */
export function encodeQuery(id: number, spelled: string, type: number): Uint8Array {
  const writer = new Writer();
  writer.u16(id, FLAG_RECURSION_DESIRED, 1, 0, 0, 1);
  writer.name(spelled);
  writer.u16(type, CLASS_IN);
  writer.opt();
  return writer.bytes();
}

export interface DnsReply {
  readonly code: DnsCode;
  readonly records?: readonly DnsRecord[];
}

/**
 * An answer to a client, with its question echoed. The question's name owns all records, so that no chain of aliases is
 * revealed. An answer above `bytesMax` is marked as truncated and has no records.
 */
export function encodeReply(query: DnsQuery, reply: DnsReply, bytesMax: number): Uint8Array {
  const whole = encode(query, reply.code, reply.records ?? [], 0);
  return whole.length <= bytesMax ? whole : encode(query, reply.code, [], FLAG_TRUNCATED);
}

/** A reply to a query of which only the id was readable. */
export function encodeFailure(id: number, code: DnsCode): Uint8Array {
  const writer = new Writer();
  writer.u16(id, FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | code, 0, 0, 0, 0);
  return writer.bytes();
}

export function udpReplyBytesMax(query: DnsQuery): number {
  return Math.min(query.udpPayloadBytes ?? UDP_PAYLOAD_BYTES_MIN, UDP_PAYLOAD_BYTES_MAX);
}

function encode(query: DnsQuery, code: number, records: readonly DnsRecord[], flags: number): Uint8Array {
  const writer = new Writer();
  const hasEdns = query.udpPayloadBytes !== undefined;
  const desired = query.isRecursionDesired ? FLAG_RECURSION_DESIRED : 0;
  const all = FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | desired | flags | code;
  writer.u16(query.id, all, 1, records.length, 0, hasEdns ? 1 : 0);
  writer.raw(query.wire);
  for (const record of records) {
    writer.u16((POINTER << 8) | DNS_HEADER_BYTES, DNS_TYPE[record.type], CLASS_IN);
    writer.u16(record.ttlSeconds >>> 16, record.ttlSeconds & 0xffff);
    if (record.type === 'CNAME') writer.sized((inner) => inner.name(record.target));
    else writer.sized((inner) => inner.raw(addressBytes(record.address)));
  }
  if (hasEdns) writer.opt();
  return writer.bytes();
}

interface Header {
  readonly id: number;
  readonly flags: number;
  readonly questions: number;
  readonly answers: number;
  readonly authorities: number;
  readonly additionals: number;
}

class Reader {
  at = 0;
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** The caller must have checked that there are 12 bytes. */
  header(): Header {
    const next = (): number => this.u16() ?? 0;
    return { id: next(), flags: next(), questions: next(), answers: next(), authorities: next(), additionals: next() };
  }

  u16(): number | undefined {
    const high = this.#bytes[this.at];
    const low = this.#bytes[this.at + 1];
    if (high === undefined || low === undefined) return undefined;
    this.at += 2;
    return (high << 8) | low;
  }

  /** A name as spelled, '' for the root; undefined if truncated, too long, looping, or with invalid characters. */
  name({ isPlain = false } = {}): string | undefined {
    const labels: string[] = [];
    let at = this.at;
    let end: number | undefined;
    let pointedFrom = at;
    let length = 0;
    for (;;) {
      const size = this.#bytes[at];
      if (size === undefined) return undefined;
      if (size === 0) break;
      if ((size & POINTER) === POINTER) {
        const low = this.#bytes[at + 1];
        if (isPlain || low === undefined) return undefined;
        const to = ((size & 0x3f) << 8) | low;
        // Strictly backwards from the start of this stretch, so that it ends and reads no label twice.
        if (to >= pointedFrom) return undefined;
        end ??= at + 2;
        pointedFrom = to;
        at = to;
        continue;
      }
      if (size > LABEL_CHARACTERS_MAX || at + 1 + size > this.#bytes.length) return undefined;
      length += size + 1;
      if (length - 1 > NAME_CHARACTERS_MAX) return undefined;
      labels.push(String.fromCharCode(...this.#bytes.subarray(at + 1, at + 1 + size)));
      at += size + 1;
    }
    this.at = end ?? at + 1;
    if (labels.some((label) => label.includes('.'))) return undefined;
    const name = labels.join('.');
    return name === '' || isCanonicalName(name.toLowerCase()) ? name : undefined;
  }

  recordHead():
    | { name: string; type: number; class: number; ttlSeconds: number; start: number; end: number }
    | undefined {
    const name = this.name();
    const type = this.u16();
    const recordClass = this.u16();
    const ttlHigh = this.u16();
    const ttlLow = this.u16();
    const size = this.u16();
    if (name === undefined || type === undefined || recordClass === undefined) return undefined;
    if (ttlHigh === undefined || ttlLow === undefined || size === undefined) return undefined;
    const ttl = ttlHigh * 0x1_0000 + ttlLow;
    const end = this.at + size;
    if (end > this.#bytes.length) return undefined;
    // RFC 2181 section 8: a TTL with the top bit set is zero.
    const ttlSeconds = ttl > TTL_SECONDS_MAX ? 0 : ttl;
    return { name: name.toLowerCase(), type, class: recordClass, ttlSeconds, start: this.at, end };
  }

  record(): DnsRecord | 'other' | undefined {
    const head = this.recordHead();
    if (head === undefined) return undefined;
    const { name, ttlSeconds, start, end } = head;
    const data = this.#bytes.subarray(start, end);
    if (head.class !== CLASS_IN) {
      this.at = end;
      return 'other';
    }
    switch (head.type) {
      case DNS_TYPE.A:
      case DNS_TYPE.AAAA: {
        const type = head.type === DNS_TYPE.A ? 'A' : 'AAAA';
        if (data.length !== (type === 'A' ? 4 : 16)) return undefined;
        this.at = end;
        return { type, name, ttlSeconds, address: addressText(data) };
      }
      case DNS_TYPE.CNAME: {
        const target = this.name();
        if (target === undefined || this.at !== end) return undefined;
        return { type: 'CNAME', name, ttlSeconds, target: target.toLowerCase() };
      }
      default:
        this.at = end;
        return 'other';
    }
  }
}

class Writer {
  readonly #bytes: number[] = [];

  u16(...values: number[]): void {
    for (const value of values) this.#bytes.push((value >> 8) & 255, value & 255);
  }

  raw(bytes: Iterable<number>): void {
    for (const byte of bytes) this.#bytes.push(byte);
  }

  name(name: string): void {
    for (const label of name === '' ? [] : name.split('.')) {
      this.#bytes.push(label.length);
      this.raw(Buffer.from(label, 'latin1'));
    }
    this.#bytes.push(0);
  }

  sized(write: (inner: Writer) => void): void {
    const inner = new Writer();
    write(inner);
    this.u16(inner.#bytes.length);
    this.raw(inner.#bytes);
  }

  /** EDNS version 0, no options, RFC 6891 section 6.1.2. */
  opt(): void {
    this.#bytes.push(0);
    this.u16(DNS_TYPE.OPT, UDP_PAYLOAD_BYTES_MAX, 0, 0, 0);
  }

  bytes(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }
}

/** 4 bytes → dotted quad, 16 bytes → RFC 5952. */
function addressText(data: Uint8Array): string {
  const value = BigInt(`0x${Buffer.from(data).toString('hex')}`);
  return formatAddress({ family: data.length === 4 ? 4 : 6, value });
}

function addressBytes(text: string): Uint8Array {
  const address = parseAddress(text);
  assert(address !== undefined, 'a record has an address');
  const digits = address.family === 4 ? 8 : 32;
  return Buffer.from(address.value.toString(16).padStart(digits, '0'), 'hex');
}
