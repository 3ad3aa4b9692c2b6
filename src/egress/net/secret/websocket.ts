/**
 * Removes secrets from a server's WebSocket frames (RFC 6455 section 5). Pure.
 *
 *     fragment ─► fragment ─► last fragment      one message, searched as a whole and cut again
 *          └─ control frames between them ─┘     each searched alone
 *
 * The end of a message releases held bytes, so that the guest gets all of it.
 */
import type { Matcher } from './matcher.ts';
import { Scrubber } from './scrubber.ts';

const FINAL = 0x80;
const RESERVED = 0x70;
const OPCODE = 0x0f;
const MASKED = 0x80;
const CONTINUATION = 0x0;
const BINARY = 0x2;
const CLOSE = 0x8;
const PONG = 0xa;
const CONTROL_BYTES_MAX = 125;
const HEAD_BYTES_MAX = 10;

export class SecretWebSocket {
  readonly #matcher: Matcher;
  #head = Buffer.alloc(0);
  #bytesLeft = 0;
  #isInFrame = false;
  #isFinal = false;
  #isControl = false;
  /** True within a message, before its last fragment. */
  #isInMessage = false;
  /** Opcode of the next frame to send for the message. */
  #opcode = CONTINUATION;
  #message: Scrubber;
  #control: Buffer[] = [];
  #controlOpcode = CLOSE;

  constructor(matcher: Matcher) {
    this.#matcher = matcher;
    this.#message = new Scrubber(matcher);
  }

  /** @returns bytes to pass on, and true if an invalid frame followed them; then nothing more is read */
  push(bytes: Buffer): { readonly pieces: readonly Buffer[]; readonly isBroken: boolean } {
    const pieces: Buffer[] = [];
    for (let rest = bytes; rest.length > 0; ) {
      if (!this.#isInFrame) {
        const taken = this.#takeHead(rest);
        if (taken === undefined) return { pieces, isBroken: true };
        rest = rest.subarray(taken);
      }
      if (!this.#isInFrame) continue;
      const payload = rest.subarray(0, this.#bytesLeft);
      rest = rest.subarray(payload.length);
      this.#bytesLeft -= payload.length;
      pieces.push(...this.#onPayload(payload));
    }
    return { pieces, isBroken: false };
  }

  /** @returns the number of header bytes; undefined for an invalid frame */
  #takeHead(bytes: Buffer): number | undefined {
    const before = this.#head.length;
    const all = Buffer.concat([this.#head, bytes.subarray(0, HEAD_BYTES_MAX - before)]);
    this.#head = all;
    const [first, second] = all;
    if (first === undefined || second === undefined) return all.length - before;
    const short = second & ~MASKED;
    const lengthBytes = short === 127 ? 8 : short === 126 ? 2 : 0;
    if ((first & RESERVED) !== 0 || (second & MASKED) !== 0) return undefined;
    if (all.length < 2 + lengthBytes) return all.length - before;
    const length = lengthBytes === 8 ? Number(all.readBigUInt64BE(2)) : lengthBytes === 2 ? all.readUInt16BE(2) : short;
    this.#head = Buffer.alloc(0);
    return this.#begin(first, length) ? 2 + lengthBytes - before : undefined;
  }

  #begin(first: number, length: number): boolean {
    const opcode = first & OPCODE;
    const isFinal = (first & FINAL) !== 0;
    const isControl = opcode >= CLOSE;
    const isKnown = isControl ? opcode <= PONG : opcode <= BINARY;
    if (!isKnown || !Number.isSafeInteger(length)) return false;
    if (isControl && (!isFinal || length > CONTROL_BYTES_MAX)) return false;
    if (!isControl && (opcode === CONTINUATION) !== this.#isInMessage) return false;
    this.#isInFrame = true;
    this.#bytesLeft = length;
    this.#isControl = isControl;
    if (isControl) this.#controlOpcode = opcode;
    else {
      if (!this.#isInMessage) this.#opcode = opcode;
      this.#isFinal = isFinal;
      this.#isInMessage = !isFinal;
    }
    return true;
  }

  #onPayload(payload: Buffer): Buffer[] {
    const isEnd = this.#bytesLeft === 0;
    if (isEnd) this.#isInFrame = false;
    if (this.#isControl) {
      this.#control.push(payload);
      if (!isEnd) return [];
      const scrubber = new Scrubber(this.#matcher);
      const pieces = this.#control.map((piece) => scrubber.push(piece));
      this.#control = [];
      return framed(FINAL | this.#controlOpcode, Buffer.concat([...pieces, scrubber.end()]));
    }
    const piece = this.#message.push(payload);
    const isLast = isEnd && this.#isFinal;
    if (!isLast && piece.length === 0) return [];
    const data = isLast ? Buffer.concat([piece, this.#message.end()]) : piece;
    const first = (isLast ? FINAL : 0) | this.#opcode;
    this.#opcode = CONTINUATION;
    return framed(first, data);
  }
}

function framed(first: number, payload: Buffer): Buffer[] {
  const { length } = payload;
  let head: Buffer;
  if (length < 126) head = Buffer.from([first, length]);
  else if (length < 65_536) {
    head = Buffer.from([first, 126, 0, 0]);
    head.writeUInt16BE(length, 2);
  } else {
    head = Buffer.from([first, 127, 0, 0, 0, 0, 0, 0, 0, 0]);
    head.writeBigUInt64BE(BigInt(length), 2);
  }
  return [head, payload];
}
