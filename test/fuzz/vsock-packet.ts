/** Any 44 bytes: parsed without an exception; encoding round-trips. */
import fc from 'fast-check';
import { HEADER_BYTES, PacketHeader, writeToGuest } from '../../src/machine/vsock/packet.ts';
import { must, structured } from './target.ts';

const HOST_CID = 2n;
const u32 = fc.nat({ max: 0xffffffff });

export const vsockPacket = structured(
  'vsock-packet',
  fc.record({
    bytes: fc.uint8Array({ minLength: HEADER_BYTES + 3, maxLength: HEADER_BYTES + 3 }),
    at: fc.nat({ max: 3 }),
    cid: fc.integer({ min: 3, max: 0xfffffffe }),
    ports: fc.record({ hostPort: u32, guestPort: u32, bufAlloc: u32, fwdCount: u32 }),
    op: fc.nat({ max: 0xffff }),
    flags: u32,
    length: u32,
  }),
  ({ bytes, at, cid, ports, op, flags, length }) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const header = new PacketHeader();
    const problem = header.readFromGuest(view, at, cid);
    const [from, to] = [view.getBigUint64(at, true), view.getBigUint64(at + 8, true)];
    const isOurs = from === BigInt(cid) && to === HOST_CID;
    must(isOurs || problem !== undefined, 'a packet of another guest was taken');
    const before = bytes.slice();
    writeToGuest(view, at, cid, ports, op, flags, length);
    const isOutsideKept = bytes.every(
      (byte, index) => (index >= at && index < at + HEADER_BYTES) || byte === before[index],
    );
    must(isOutsideKept, 'a header was written beyond its 44 bytes');
    // Turned round, it is a packet of the guest.
    for (let index = 0; index < 8; index += 1) {
      const [a, b] = [view.getUint8(at + index), view.getUint8(at + 8 + index)];
      view.setUint8(at + index, b);
      view.setUint8(at + 8 + index, a);
    }
    must(header.readFromGuest(view, at, cid) === undefined, 'own header is refused');
    must(header.op === op && header.flags === flags && header.length === length, 'op, flags, len');
    must(header.guestPort === ports.hostPort && header.hostPort === ports.guestPort, 'ports');
    must(header.bufAlloc === ports.bufAlloc && header.fwdCount === ports.fwdCount, 'credit');
  },
);
