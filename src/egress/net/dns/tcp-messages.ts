/** DNS messages on a TCP connection, each prefixed by its length in two bytes (RFC 7766 section 8). Pure. */

const LENGTH_BYTES = 2;

export class TcpMessages {
  readonly #bytesMax: number;
  #received = Buffer.alloc(0);

  /** @param bytesMax of a message; a longer one is `too_long` without waiting for it */
  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  push(bytes: Uint8Array): void {
    this.#received = Buffer.concat([this.#received, bytes]);
  }

  /** The next whole message; undefined if more bytes are needed. */
  next(): Buffer | 'too_long' | undefined {
    if (this.#received.length < LENGTH_BYTES) return undefined;
    const size = this.#received.readUInt16BE();
    if (size > this.#bytesMax) return 'too_long';
    const end = LENGTH_BYTES + size;
    if (this.#received.length < end) return undefined;
    const message = this.#received.subarray(LENGTH_BYTES, end);
    this.#received = this.#received.subarray(end);
    return message;
  }
}

export function tcpMessage(message: Uint8Array): Buffer {
  const length = Buffer.alloc(LENGTH_BYTES);
  length.writeUInt16BE(message.length);
  return Buffer.concat([length, message]);
}
