/**
 * Reads the first flight of a TLS client without decrypting anything (RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section
 * 3): bytes in, in any pieces, and one result out. Pure.
 *
 *     record: type 22 │ version │ length │ fragment …     one handshake message over 1..n records
 *     handshake: type 1 │ length (24 bit) │ version · random · session id · suites · compression · extensions
 *
 * Strict where two readers could differ: a repeated extension or name, another message in between, a name that is an
 * address, an outer hello that hides the true name (ECH).
 */
import { parseHostName } from '../addresses/host-name.ts';

/** Limit of the handshake message; hellos with post-quantum keys have about 2 KiB. */
export const HELLO_BYTES_MAX = 16 * 1024;
/** Limit of the message with record headers, however small the records are. */
export const HELLO_WIRE_BYTES_MAX = 32 * 1024;
const RECORD_HEAD_BYTES = 5;
/** RFC 8446 section 5.1. */
const FRAGMENT_BYTES_MAX = 16 * 1024;
const EXTENSIONS_MAX = 64;
const PROTOCOLS_MAX = 32;

const RECORD_HANDSHAKE = 22;
const HANDSHAKE_CLIENT_HELLO = 1;
const EXTENSION = { serverName: 0, alpn: 16, encryptedServerName: 0xffce, ech: 0xfe0d } as const;

export interface ClientHello {
  /** Canonical host name; undefined without the extension. */
  readonly serverName: string | undefined;
  /** ALPN, as sent. */
  readonly protocols: readonly string[];
  /**
   * Encrypted ClientHello or its predecessor. A greased one (RFC 9849 section 6.2) is by design indistinguishable from
   * a real one.
   */
  readonly hasEch: boolean;
}

export type HelloProblem =
  /** Not TLS: the first byte belongs to no handshake record. */
  | 'not_tls'
  | 'too_long'
  /** Another record or message before the hello is complete, or an empty fragment. */
  | 'out_of_order'
  | 'malformed'
  /** A repeated extension type, or two names. */
  | 'duplicate'
  /** Not a host name of ASCII letters, digits and hyphens, or an address. */
  | 'server_name';

export type HelloState =
  | { readonly kind: 'more' }
  | { readonly kind: 'hello'; readonly hello: ClientHello }
  | { readonly kind: 'refused'; readonly reason: HelloProblem };

export class ClientHelloReader {
  /** The message without record headers; grows with the received bytes, not with the announced length. */
  #message = new Uint8Array(1024);
  readonly #head = new Uint8Array(RECORD_HEAD_BYTES);
  /** `head`: a record's header; `fragment`: its content. */
  #phase: 'head' | 'fragment' = 'head';
  #headBytes = 0;
  #fragmentBytesLeft = 0;
  #handshakeBytes = 0;
  #wireBytes = 0;
  #state: HelloState = { kind: 'more' };

  get state(): HelloState {
    return this.#state;
  }

  get wireBytes(): number {
    return this.#wireBytes;
  }

  /** After any state but `more`, further bytes change nothing. */
  push(bytes: Uint8Array): HelloState {
    let at = 0;
    while (this.#state.kind === 'more' && at < bytes.length) {
      const rest = bytes.subarray(at);
      const taken = this.#phase === 'head' ? this.#takeHead(rest) : this.#takeFragment(rest);
      at += taken;
      this.#wireBytes += taken;
      if (this.#state.kind === 'more' && this.#wireBytes >= HELLO_WIRE_BYTES_MAX) this.#refuse('too_long');
    }
    return this.#state;
  }

  #takeHead(bytes: Uint8Array): number {
    const taken = Math.min(RECORD_HEAD_BYTES - this.#headBytes, bytes.length);
    this.#head.set(bytes.subarray(0, taken), this.#headBytes);
    this.#headBytes += taken;
    const [type = 0, major = 0, , high = 0, low = 0] = this.#head;
    // Checked early, so that a client of another protocol is refused at once.
    if (type !== RECORD_HANDSHAKE || (this.#headBytes > 1 && major !== 3)) {
      this.#refuse(this.#handshakeBytes === 0 ? 'not_tls' : 'out_of_order');
      return taken;
    }
    if (this.#headBytes < RECORD_HEAD_BYTES) return taken;
    this.#fragmentBytesLeft = (high << 8) | low;
    if (this.#fragmentBytesLeft > FRAGMENT_BYTES_MAX) this.#refuse('too_long');
    // RFC 8446 section 5.1: no empty fragments of handshake messages.
    else if (this.#fragmentBytesLeft === 0) this.#refuse('out_of_order');
    this.#phase = 'fragment';
    this.#headBytes = 0;
    return taken;
  }

  #takeFragment(bytes: Uint8Array): number {
    const taken = Math.min(this.#fragmentBytesLeft, bytes.length);
    this.#append(bytes.subarray(0, taken));
    this.#fragmentBytesLeft -= taken;
    if (this.#fragmentBytesLeft === 0) this.#phase = 'head';
    this.#consider();
    return taken;
  }

  #append(bytes: Uint8Array): void {
    const lengthBytes = this.#handshakeBytes + bytes.length;
    if (lengthBytes > this.#message.length) {
      const larger = new Uint8Array(Math.max(lengthBytes, 2 * this.#message.length));
      larger.set(this.#message.subarray(0, this.#handshakeBytes));
      this.#message = larger;
    }
    this.#message.set(bytes, this.#handshakeBytes);
    this.#handshakeBytes = lengthBytes;
  }

  #consider(): void {
    const [type, high = 0, middle = 0, low = 0] = this.#message;
    if (type !== HANDSHAKE_CLIENT_HELLO) {
      this.#refuse('out_of_order');
      return;
    }
    if (this.#handshakeBytes < 4) return;
    const messageBytes = 4 + ((high << 16) | (middle << 8) | low);
    if (messageBytes > HELLO_BYTES_MAX) {
      this.#refuse('too_long');
      return;
    }
    // Nothing may follow it in its record: the client must wait for the server.
    if (this.#handshakeBytes + this.#fragmentBytesLeft > messageBytes) {
      this.#refuse('out_of_order');
      return;
    }
    if (this.#handshakeBytes < messageBytes) return;
    this.#state = parseHello(this.#message.subarray(4, messageBytes));
  }

  #refuse(reason: HelloProblem): void {
    this.#state = { kind: 'refused', reason };
  }
}

/** @param body of a ClientHello, after type and length */
export function parseHello(body: Uint8Array): HelloState {
  const refused = (reason: HelloProblem): HelloState => ({ kind: 'refused', reason });
  const fields = new Fields(body);
  const legacyVersion = fields.take(2);
  const random = fields.take(32);
  const sessionId = fields.vector(1);
  const suites = fields.vector(2);
  const compression = fields.vector(1);
  if (legacyVersion?.[0] !== 3 || random === undefined) return refused('malformed');
  if (sessionId === undefined || sessionId.length > 32) return refused('malformed');
  if (suites === undefined || suites.length < 2 || suites.length % 2 !== 0) return refused('malformed');
  if (compression === undefined || compression.length === 0) return refused('malformed');
  let serverName: string | undefined;
  let protocols: readonly string[] = [];
  let hasEch = false;
  // TLS 1.2 without extensions ends here.
  const extensions = fields.isEmpty ? new Uint8Array() : fields.vector(2);
  if (extensions === undefined || !fields.isEmpty) return refused('malformed');
  const seen = new Set<number>();
  const list = new Fields(extensions);
  while (!list.isEmpty) {
    const type = list.u16();
    const data = list.vector(2);
    if (type === undefined || data === undefined || seen.size >= EXTENSIONS_MAX) return refused('malformed');
    if (seen.has(type)) return refused('duplicate');
    seen.add(type);
    if (type === EXTENSION.serverName) {
      const name = parseServerName(data);
      if (typeof name !== 'string') return refused(name.problem);
      serverName = name;
    } else if (type === EXTENSION.alpn) {
      const parsed = parseProtocols(data);
      if (parsed === undefined) return refused('malformed');
      protocols = parsed;
    } else if (type === EXTENSION.ech || type === EXTENSION.encryptedServerName) hasEch = true;
  }
  return { kind: 'hello', hello: { serverName, protocols, hasEch } };
}

/** RFC 6066 section 3: a list with exactly one host name, in practice and here. */
function parseServerName(data: Uint8Array): string | { problem: HelloProblem } {
  const outer = new Fields(data);
  const list = outer.vector(2);
  if (list === undefined || !outer.isEmpty || list.length === 0) return { problem: 'malformed' };
  const entries = new Fields(list);
  const type = entries.take(1)?.[0];
  const value = entries.vector(2);
  if (type !== 0 || value === undefined) return { problem: 'malformed' };
  if (!entries.isEmpty) return { problem: 'duplicate' };
  return parseHostName(Buffer.from(value).toString('latin1')) ?? { problem: 'server_name' };
}

/** RFC 7301 section 3.1. */
function parseProtocols(data: Uint8Array): string[] | undefined {
  const outer = new Fields(data);
  const list = outer.vector(2);
  if (list === undefined || !outer.isEmpty || list.length === 0) return undefined;
  const entries = new Fields(list);
  const out: string[] = [];
  while (!entries.isEmpty) {
    const name = entries.vector(1);
    if (name === undefined || name.length === 0 || out.length >= PROTOCOLS_MAX) return undefined;
    out.push(Buffer.from(name).toString('latin1'));
  }
  return out;
}

/** Reads fields in order; undefined if the bytes end too early. */
class Fields {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get isEmpty(): boolean {
    return this.#at === this.#bytes.length;
  }

  take(length: number): Uint8Array | undefined {
    if (this.#at + length > this.#bytes.length) return undefined;
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }

  u16(): number | undefined {
    const bytes = this.take(2);
    return bytes === undefined ? undefined : ((bytes[0] ?? 0) << 8) | (bytes[1] ?? 0);
  }

  /** Reads bytes prefixed by their length in 1 or 2 bytes. */
  vector(lengthBytes: 1 | 2): Uint8Array | undefined {
    const length = lengthBytes === 1 ? this.take(1)?.[0] : this.u16();
    return length === undefined ? undefined : this.take(length);
  }
}
