/** The wire format of protocol buffers (protobuf.dev, "Encoding"), one level at a time. Pure; never throws. */

interface Field {
  readonly number: number;
  /** The bits of a varint or of 4 or 8 bytes; otherwise the bytes. */
  readonly value: bigint | Buffer;
}

/** The remaining fields of all messages of a request, which bounds the cost. */
export interface FieldBudget {
  left: number;
}

const VARINT_BYTES_MAX = 10;

/** @returns `null` for an invalid message or too many fields */
export function readFields(bytes: Buffer, budget: FieldBudget): readonly Field[] | null {
  const fields: Field[] = [];
  let at = 0;
  const varint = (): bigint | null => {
    let value = 0n;
    for (let n = 0; n < VARINT_BYTES_MAX; n += 1) {
      const byte = bytes[at];
      if (byte === undefined) return null;
      at += 1;
      value |= BigInt(byte & 0x7f) << BigInt(7 * n);
      if (byte < 0x80) return BigInt.asUintN(64, value);
    }
    return null;
  };
  const take = (length: number): Buffer | null => {
    if (length > bytes.length - at) return null;
    at += length;
    return bytes.subarray(at - length, at);
  };
  while (at < bytes.length) {
    if (budget.left <= 0) return null;
    budget.left -= 1;
    const tag = varint();
    if (tag === null || tag > 0xffffffffn || tag >> 3n === 0n) return null;
    const value = readValue(Number(tag & 7n), varint, take);
    if (value === null) return null;
    fields.push({ number: Number(tag >> 3n), value });
  }
  return fields;
}

/** Groups (3, 4) do not occur in these messages. */
function readValue(
  wireType: number,
  varint: () => bigint | null,
  take: (length: number) => Buffer | null,
): bigint | Buffer | null {
  switch (wireType) {
    case 0:
      return varint();
    case 1:
      return take(8)?.readBigUInt64LE() ?? null;
    case 2: {
      const length = varint();
      return length === null || length > 0x7fffffffn ? null : take(Number(length));
    }
    case 5: {
      const bits = take(4);
      return bits === null ? null : BigInt(bits.readUInt32LE());
    }
    default:
      return null;
  }
}

/** Invalid UTF-8 becomes U+FFFD, control characters become spaces. */
export function textOf(bytes: Buffer): string {
  return bytes.toString('utf8').replaceAll(/\p{Cc}/gu, ' ');
}

/** 0 if missing. */
export function numberOf(value: bigint | Buffer | undefined): number {
  return typeof value === 'bigint' && value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : 0;
}
