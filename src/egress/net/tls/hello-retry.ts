/**
 * Checks the second ClientHello that a TLS 1.3 server may ask for (RFC 8446 section 4.1.4), which names the server
 * again. If only the first one were judged, the second could name another server. Pure.
 */
import { type ClientHello, ClientHelloReader, type HelloProblem } from './client-hello.ts';

const RECORD_HANDSHAKE = 22;
const RECORD_CHANGE_CIPHER_SPEC = 20;
const RECORD_APPLICATION_DATA = 23;
const HANDSHAKE_SERVER_HELLO = 2;
const RECORD_HEAD_BYTES = 5;
/** Record and message headers, version, random. */
const SERVER_HELLO_START_BYTES = RECORD_HEAD_BYTES + 4 + 2 + 32;
/** Limit of early data that a client may have sent before it gets the retry. */
const SKIPPED_BYTES_MAX = 64 * 1024;
/** SHA-256 of "HelloRetryRequest", RFC 8446 section 4.1.3. */
const RETRY_RANDOM = 'cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c';

export class ServerHelloStart {
  #bytes = Buffer.alloc(0);

  /** `more` until there are enough bytes; `other` if the server asks for no second hello. */
  push(bytes: Uint8Array): 'more' | 'retry' | 'other' {
    const room = SERVER_HELLO_START_BYTES - this.#bytes.length;
    this.#bytes = Buffer.concat([this.#bytes, bytes.subarray(0, room)]);
    const isHandshake = this.#bytes.length === 0 || this.#bytes[0] === RECORD_HANDSHAKE;
    if (!isHandshake) return 'other';
    if (this.#bytes.length < SERVER_HELLO_START_BYTES) return 'more';
    if (this.#bytes[RECORD_HEAD_BYTES] !== HANDSHAKE_SERVER_HELLO) return 'other';
    return this.#bytes.subarray(-32).toString('hex') === RETRY_RANDOM ? 'retry' : 'other';
  }
}

type SecondHelloState =
  | { readonly kind: 'more' }
  | { readonly kind: 'same' }
  | { readonly kind: 'refused'; readonly reason: HelloProblem | 'changed' };

/** Judges a client's second hello: it must have the name of the first, and hide no more than it. */
export class SecondHello {
  readonly #first: ClientHello;
  readonly #reader = new ClientHelloReader();
  readonly #head: number[] = [];
  #skipBytesLeft = 0;
  #skippedBytes = 0;
  #isHello = false;

  constructor(first: ClientHello) {
    this.#first = first;
  }

  push(bytes: Uint8Array): SecondHelloState {
    let at = 0;
    while (!this.#isHello && at < bytes.length) {
      if (this.#skipBytesLeft > 0) {
        const taken = Math.min(this.#skipBytesLeft, bytes.length - at);
        this.#skipBytesLeft -= taken;
        at += taken;
        continue;
      }
      this.#head.push(bytes[at] ?? 0);
      at += 1;
      if (this.#head[0] === RECORD_HANDSHAKE) {
        this.#isHello = true;
        this.#reader.push(Uint8Array.of(RECORD_HANDSHAKE));
      } else if (this.#head[0] !== RECORD_CHANGE_CIPHER_SPEC && this.#head[0] !== RECORD_APPLICATION_DATA)
        return { kind: 'refused', reason: 'out_of_order' };
      if (this.#head.length < RECORD_HEAD_BYTES) continue;
      this.#skipBytesLeft = ((this.#head[3] ?? 0) << 8) | (this.#head[4] ?? 0);
      this.#skippedBytes += RECORD_HEAD_BYTES + this.#skipBytesLeft;
      this.#head.length = 0;
      if (this.#skippedBytes > SKIPPED_BYTES_MAX) return { kind: 'refused', reason: 'too_long' };
    }
    if (!this.#isHello) return { kind: 'more' };
    const state = this.#reader.push(bytes.subarray(at));
    if (state.kind !== 'hello') return state;
    const { serverName, hasEch } = state.hello;
    const isSame = serverName === this.#first.serverName && hasEch === this.#first.hasEch;
    return isSame ? { kind: 'same' } : { kind: 'refused', reason: 'changed' };
  }
}
