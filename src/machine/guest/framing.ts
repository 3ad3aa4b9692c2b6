/**
 * Lines and frames of the guest protocol (`spec/guest-protocol.md`, section 4), without I/O. Bytes from a guest are
 * hostile: decoders never throw, buffer a bounded amount, and stay broken once broken.
 *
 *     frame = kind (1 byte) · payload length (u32 big endian) · payload
 */
import { GUEST_LIMITS } from './limits.ts';

export const FRAME = {
  /** Host → guest: input of a program; empty at its end. */
  stdin: 1,
  /** Guest → host: output, or content of a file; empty at its end. */
  stdout: 2,
  stderr: 3,
  /** Guest → host: one JSON object. */
  control: 4,
  /** Host → guest: the body that a request announced, or content of a file; empty at its end. */
  body: 5,
} as const;

export const FRAME_HEADER_BYTES = 5;

/** Frame kinds that a guest may send. */
const FROM_GUEST: ReadonlySet<number> = new Set([FRAME.stdout, FRAME.stderr, FRAME.control]);

export interface Frame {
  readonly kind: number;
  readonly payload: Buffer;
}

export type FramesResult =
  | { readonly ok: true; readonly frames: readonly Frame[] }
  /** `frames` has those decoded before the error. */
  | { readonly ok: false; readonly reason: string; readonly frames: readonly Frame[] };

/** The header of a frame whose payload is sent separately. `payloadBytes` must be within the limit. */
export function frameHeader(kind: number, payloadBytes: number): Buffer {
  const header = Buffer.allocUnsafe(FRAME_HEADER_BYTES);
  header.writeUInt8(kind, 0);
  header.writeUInt32BE(payloadBytes, 1);
  return header;
}

/** Splits `content` into frames of `kind`; empty content gives none. */
export function encodeFrames(kind: number, content: Uint8Array): Buffer[] {
  const parts: Buffer[] = [];
  for (let at = 0; at < content.length; at += GUEST_LIMITS.framePayloadBytesMax) {
    const payload = content.subarray(at, at + GUEST_LIMITS.framePayloadBytesMax);
    parts.push(frameHeader(kind, payload.length));
    parts.push(Buffer.from(payload.buffer, payload.byteOffset, payload.length));
  }
  return parts;
}

/** Holds at most one incomplete frame. Payloads may share memory with the received bytes. */
export class FrameDecoder {
  #pending: Buffer = Buffer.alloc(0);
  #broken: string | undefined;

  get pendingBytes(): number {
    return this.#pending.length;
  }

  receive(data: Buffer): FramesResult {
    if (this.#broken !== undefined) return { ok: false, reason: this.#broken, frames: [] };
    const bytes = this.#pending.length === 0 ? data : Buffer.concat([this.#pending, data]);
    const frames: Frame[] = [];
    let at = 0;
    while (bytes.length - at >= FRAME_HEADER_BYTES) {
      const kind = bytes.readUInt8(at);
      const size = bytes.readUInt32BE(at + 1);
      if (!FROM_GUEST.has(kind)) return this.#fail(`unexpected frame kind ${kind}`, frames);
      if (size > GUEST_LIMITS.framePayloadBytesMax) return this.#fail(`a frame of ${size} bytes`, frames);
      const end = at + FRAME_HEADER_BYTES + size;
      if (bytes.length < end) break;
      frames.push({ kind, payload: bytes.subarray(at + FRAME_HEADER_BYTES, end) });
      at = end;
    }
    // A copy, so that a small rest does not retain a large chunk.
    this.#pending = at === bytes.length ? Buffer.alloc(0) : Buffer.from(bytes.subarray(at));
    return { ok: true, frames };
  }

  #fail(reason: string, frames: readonly Frame[]): FramesResult {
    this.#broken = reason;
    this.#pending = Buffer.alloc(0);
    return { ok: false, reason, frames };
  }
}

export type LineResult =
  | { readonly ok: true; readonly line: Buffer; readonly rest: Buffer }
  /** More bytes are needed. */
  | { readonly ok: true; readonly line: null }
  | { readonly ok: false; readonly reason: string };

/** Decodes one line at a time, and returns the bytes after the newline unchanged. */
export class LineDecoder {
  readonly #bytesMax: number;
  #parts: Buffer[] = [];
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get pendingBytes(): number {
    return this.#bytes;
  }

  receive(data: Buffer): LineResult {
    const end = data.indexOf(NEWLINE);
    const lineBytes = this.#bytes + (end < 0 ? data.length : end);
    if (lineBytes > this.#bytesMax) {
      this.#reset();
      return { ok: false, reason: `a line longer than ${this.#bytesMax} bytes` };
    }
    if (end < 0) {
      this.#parts.push(Buffer.from(data));
      this.#bytes = lineBytes;
      // Many tiny chunks would take more memory than their bytes.
      if (this.#parts.length > PARTS_MAX) this.#parts = [Buffer.concat(this.#parts)];
      return { ok: true, line: null };
    }
    const line = Buffer.concat([...this.#parts, data.subarray(0, end)]);
    this.#reset();
    return { ok: true, line, rest: data.subarray(end + 1) };
  }

  #reset(): void {
    this.#parts = [];
    this.#bytes = 0;
  }
}

const NEWLINE = 0x0a;
const PARTS_MAX = 256;
