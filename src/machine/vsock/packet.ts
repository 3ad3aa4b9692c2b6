/**
 * The packet header, 44 bytes little-endian (virtio 1.2, section 5.10.6):
 *
 *     0 src_cid u64 · 8 dst_cid u64 · 16 src_port u32 · 20 dst_port u32 · 24 len u32
 *     28 type u16 · 30 op u16 · 32 flags u32 · 36 buf_alloc u32 · 40 fwd_cnt u32
 */

export const HEADER_BYTES = 44;
/** VMADDR_CID_HOST: the CID that guests dial. */
const HOST_CID = 2;
const TYPE_STREAM = 1;

/** VIRTIO_VSOCK_OP_*. */
export const OP = {
  request: 1,
  response: 2,
  reset: 3,
  shutdown: 4,
  data: 5,
  creditUpdate: 6,
  creditRequest: 7,
} as const;

/** Flags of `shutdown`: what its sender will no longer do. */
export const SHUTDOWN_RECEIVE = 1;
export const SHUTDOWN_SEND = 2;
export const SHUTDOWN_BOTH = 3;

/** A packet from the guest. One object is reused: nothing is allocated per packet. */
export class PacketHeader {
  guestPort = 0;
  hostPort = 0;
  /** Payload bytes that the header claims. */
  length = 0;
  op = 0;
  flags = 0;
  /** Receive window of the sender, bytes. */
  bufAlloc = 0;
  /** Bytes that the sender has taken out of its window since the start, modulo 2³². */
  fwdCount = 0;

  /**
   * Reads a header that came from the guest with CID `guestCid`. Each field is read once, since the guest may change it
   * at any time.
   * @returns a problem, or undefined
   */
  readFromGuest(
    view: DataView,
    at: number,
    guestCid: number,
  ): 'foreign-source' | 'foreign-destination' | 'unknown-type' | undefined {
    this.guestPort = view.getUint32(at + 16, true);
    this.hostPort = view.getUint32(at + 20, true);
    this.length = view.getUint32(at + 24, true);
    this.op = view.getUint16(at + 30, true);
    this.flags = view.getUint32(at + 32, true);
    this.bufAlloc = view.getUint32(at + 36, true);
    this.fwdCount = view.getUint32(at + 40, true);
    if (view.getUint32(at, true) !== guestCid || view.getUint32(at + 4, true) !== 0) return 'foreign-source';
    if (view.getUint32(at + 8, true) !== HOST_CID || view.getUint32(at + 12, true) !== 0) return 'foreign-destination';
    if (view.getUint16(at + 28, true) !== TYPE_STREAM) return 'unknown-type';
    return undefined;
  }
}

/** Writes a header from the host to the guest; `packet` is a stream packet. */
export function writeToGuest(
  view: DataView,
  at: number,
  guestCid: number,
  packet: {
    readonly hostPort: number;
    readonly guestPort: number;
    readonly bufAlloc: number;
    readonly fwdCount: number;
  },
  op: number,
  flags: number,
  length: number,
): void {
  view.setUint32(at, HOST_CID, true);
  view.setUint32(at + 4, 0, true);
  view.setUint32(at + 8, guestCid, true);
  view.setUint32(at + 12, 0, true);
  view.setUint32(at + 16, packet.hostPort, true);
  view.setUint32(at + 20, packet.guestPort, true);
  view.setUint32(at + 24, length, true);
  view.setUint16(at + 28, TYPE_STREAM, true);
  view.setUint16(at + 30, op, true);
  view.setUint32(at + 32, flags, true);
  view.setUint32(at + 36, packet.bufAlloc, true);
  view.setUint32(at + 40, packet.fwdCount, true);
}
