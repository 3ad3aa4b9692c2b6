/** A request to rtnetlink before it has a sequence number. */
export interface Request {
  /** RTM_*. */
  readonly type: number;
  /** Bits of `FLAG`, without `request`. A request without `ack` or `dump` is answered by one message. */
  readonly flags: number;
  readonly body: Uint8Array;
}

/** @param struct of a family; its length is a multiple of 4 */
export function withAttributes(struct: Uint8Array, attributes: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(struct.length + attributes.length);
  bytes.set(struct);
  bytes.set(attributes, struct.length);
  return bytes;
}
