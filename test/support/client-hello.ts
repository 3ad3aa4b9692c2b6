/** ClientHellos for tests, well-formed or not. */

export interface HelloShape {
  readonly serverName?: string;
  readonly protocols?: readonly string[];
  readonly hasEch?: boolean;
  /** Appended after the others: type and data. */
  readonly extensions?: readonly (readonly [number, Uint8Array])[];
}

export const sized = (lengthBytes: 1 | 2 | 3, content: Uint8Array): Buffer => {
  const length = Buffer.alloc(lengthBytes);
  length.writeUIntBE(content.length, 0, lengthBytes);
  return Buffer.concat([length, content]);
};

export const serverNameData = (...names: string[]): Buffer =>
  sized(2, Buffer.concat(names.map((name) => Buffer.concat([Buffer.of(0), sized(2, Buffer.from(name, 'latin1'))]))));

/** The handshake message, including its header. */
export function helloMessage(shape: HelloShape): Buffer {
  const extensions: [number, Uint8Array][] = [[43, Buffer.from('020304', 'hex')]];
  if (shape.serverName !== undefined) extensions.push([0, serverNameData(shape.serverName)]);
  if (shape.protocols !== undefined) {
    const list = shape.protocols.map((name) => sized(1, Buffer.from(name, 'latin1')));
    extensions.push([16, sized(2, Buffer.concat(list))]);
  }
  if (shape.hasEch === true) extensions.push([0xfe0d, Buffer.alloc(40)]);
  extensions.push(...(shape.extensions ?? []).map(([t, d]): [number, Uint8Array] => [t, d]));
  const encoded = extensions.map(([type, data]) => Buffer.concat([Buffer.of(type >> 8, type & 255), sized(2, data)]));
  const body = Buffer.concat([
    Buffer.from('0303', 'hex'),
    Buffer.alloc(32, 7),
    sized(1, Buffer.alloc(32, 1)),
    sized(2, Buffer.from('13011302', 'hex')),
    sized(1, Buffer.of(0)),
    sized(2, Buffer.concat(encoded)),
  ]);
  return Buffer.concat([Buffer.of(1), sized(3, body)]);
}

/** Splits the message over records of at most `fragmentBytes` each. */
export function records(message: Uint8Array, fragmentBytes = 0x4000, type = 22): Buffer {
  const out: Buffer[] = [];
  for (let at = 0; at < message.length; at += fragmentBytes)
    out.push(Buffer.of(type, 3, 1), sized(2, message.subarray(at, at + fragmentBytes)));
  return Buffer.concat(out);
}
