/**
 * The Connect protocol with JSON (connectrpc.com/docs/protocol): unary calls are plain requests, messages of streams
 * are frames. Pure.
 *
 *     frame: flags (1 byte; 1: compressed, 2: end) · length (4 bytes, big endian) · JSON
 */
import type { z } from 'zod';
import { JsonCount } from '../../../base/text/json-values.ts';
import { E2B_LIMITS } from '../limits.ts';

export type ConnectCode =
  | 'canceled'
  | 'unknown'
  | 'invalid_argument'
  | 'deadline_exceeded'
  | 'not_found'
  | 'already_exists'
  | 'permission_denied'
  | 'resource_exhausted'
  | 'failed_precondition'
  | 'aborted'
  | 'unimplemented'
  | 'internal'
  | 'unavailable'
  | 'unauthenticated';

/** Status of a unary answer by the protocol's table. */
export const CONNECT_STATUS: Record<ConnectCode, number> = {
  canceled: 499,
  unknown: 500,
  invalid_argument: 400,
  deadline_exceeded: 504,
  not_found: 404,
  already_exists: 409,
  permission_denied: 403,
  resource_exhausted: 429,
  failed_precondition: 400,
  aborted: 409,
  unimplemented: 501,
  internal: 500,
  unavailable: 503,
  unauthenticated: 401,
};

export class ConnectError extends Error {
  readonly code: ConnectCode;

  constructor(code: ConnectCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'ConnectError';
    this.code = code;
  }
}

const HEADER_BYTES = 5;
const COMPRESSED = 1;
const END = 2;

export function frameOf(message: unknown): Buffer {
  return frame(0, message);
}

export function endFrame(error?: ConnectError): Buffer {
  if (error === undefined) return frame(END, {});
  return frame(END, { error: { code: error.code, message: error.message } });
}

function frame(flags: number, message: unknown): Buffer {
  const text = JSON.stringify(message);
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + Buffer.byteLength(text));
  bytes[0] = flags;
  bytes.writeUInt32BE(bytes.length - HEADER_BYTES, 1);
  bytes.write(text, HEADER_BYTES);
  return bytes;
}

/**
 * Yields the messages of a client's stream, as `parse` gives them.
 * @throws ConnectError `invalid_argument`, `resource_exhausted`; errors of `parse`
 */
export async function* messagesOf<T>(
  body: AsyncIterable<Buffer>,
  parse: (json: Buffer) => T | Promise<T>,
): AsyncGenerator<T> {
  const rest = new Parts();
  let header: { readonly flags: number; readonly length: number } | undefined;
  for await (const part of body) {
    rest.add(part);
    for (;;) {
      if (header === undefined) {
        if (rest.length < HEADER_BYTES) break;
        const bytes = rest.take(HEADER_BYTES);
        header = { flags: bytes.readUInt8(0), length: bytes.readUInt32BE(1) };
        checkHeader(header.flags, header.length);
      }
      if (rest.length < header.length) break;
      const json = rest.take(header.length);
      if ((header.flags & END) === END) return;
      header = undefined;
      yield await parse(json);
    }
  }
  if (rest.length > 0 || header !== undefined) {
    throw new ConnectError('invalid_argument', 'the stream ends in a message');
  }
}

/**
 * Buffers bytes in the pieces in which they arrived, and joins them only when taken: a client may send them one by one.
 */
class Parts {
  #parts: Buffer[] = [];
  length = 0;

  add(part: Buffer): void {
    this.#parts.push(part);
    this.length += part.length;
  }

  take(bytes: number): Buffer {
    const [first = Buffer.alloc(0)] = this.#parts;
    const whole = first.length >= bytes ? first : Buffer.concat(this.#parts);
    const others = whole === first ? this.#parts.slice(1) : [];
    const left = whole.subarray(bytes);
    this.#parts = left.length === 0 ? others : [left, ...others];
    this.length -= bytes;
    return whole.subarray(0, bytes);
  }
}

function checkHeader(flags: number, length: number): void {
  if ((flags & COMPRESSED) === COMPRESSED) {
    throw new ConnectError('unimplemented', 'compressed messages are not supported');
  }
  if (length > E2B_LIMITS.messageBytesMax) {
    const message = `a message has ${length} bytes, of at most ${E2B_LIMITS.messageBytesMax}`;
    throw new ConnectError('resource_exhausted', message);
  }
}

/** @throws ConnectError `resource_exhausted`, `invalid_argument` */
export function parseJson(json: Buffer): unknown {
  const excess = new JsonCount(E2B_LIMITS.messageJson).add(json);
  if (excess !== null) throw new ConnectError('resource_exhausted', `a message has more than ${excess}`);
  try {
    return JSON.parse(json.length === 0 ? '{}' : json.toString()) as unknown;
  } catch (cause) {
    throw new ConnectError('invalid_argument', 'the message is not valid JSON', { cause });
  }
}

/** @throws ConnectError `invalid_argument`, naming the field */
export function checked<T>(schema: z.ZodType<T>, message: unknown): T {
  const result = schema.safeParse(camelCased(message));
  if (result.success) return result.data;
  const [first] = result.error.issues;
  const where = first === undefined ? '' : `${first.path.join('.')}: ${first.message}`;
  throw new ConnectError('invalid_argument', where);
}

/**
 * proto3's JSON has names in either form. Values of maps keep their keys.
 * @param counted fields of the whole message, which bound its depth, too
 * @throws ConnectError `invalid_argument`
 */
function camelCased(message: unknown, counted = { fields: 0 }): unknown {
  if (typeof message !== 'object' || message === null || Array.isArray(message)) return message;
  const fields = Object.entries(message);
  counted.fields += fields.length;
  if (counted.fields > E2B_LIMITS.messageFieldsMax) {
    throw new ConnectError('invalid_argument', `a message has at most ${E2B_LIMITS.messageFieldsMax} fields`);
  }
  return Object.fromEntries(
    fields.map(([key, value]) => [
      key.replace(/_([a-z])/g, (_whole, letter: string) => letter.toUpperCase()),
      MAPS.has(key) ? value : camelCased(value, counted),
    ]),
  );
}

const MAPS: ReadonlySet<string> = new Set(['envs', 'metadata']);
