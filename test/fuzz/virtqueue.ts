/**
 * Hostile rings: any descriptors, any indices, changed while they are walked. Every chain that comes out
 * lies in memory, and every walk ends.
 */
import fc from 'fast-check';
import { DriverRing, GUEST_BASE, USER_BASE } from '../../prove/vmm/guest-rings.ts';
import { MappedMemory, makeRegion } from '../../src/machine/vsock/guest-memory.ts';
import { PACKET_BYTES_MAX, SEGMENTS_MAX } from '../../src/machine/vsock/limits.ts';
import type { MappedRegion } from '../../src/machine/vsock/mapped-ring.ts';
import { HEADER_BYTES } from '../../src/machine/vsock/packet.ts';
import { Virtqueue } from '../../src/machine/vsock/virtqueue.ts';
import { allocateNative } from '../../src/sys/memory.ts';
import { remoteOwn } from '../support/vsock-world.ts';
import { must, structured } from './target.ts';

const MEMORY_BYTES = 0x10000;
const HIGH_BASE = GUEST_BASE + MEMORY_BYTES;

const near = (value: number) => fc.integer({ min: -40, max: 40 }).map((delta) => value + delta);
const address = fc.oneof(
  fc.integer({ min: GUEST_BASE, max: GUEST_BASE + 3 * MEMORY_BYTES }).map(BigInt),
  fc.oneof(near(GUEST_BASE), near(HIGH_BASE), near(HIGH_BASE + MEMORY_BYTES)).map(BigInt),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
);
const length = fc.oneof(fc.nat({ max: 5000 }), fc.constantFrom(0, 1, 44, 0xffffffff), fc.nat({ max: 0xffffffff }));
const descriptor = fc.record({
  address,
  length,
  flags: fc.oneof({ weight: 8, arbitrary: fc.nat({ max: 3 }) }, { weight: 1, arbitrary: fc.nat({ max: 0xffff }) }),
  next: fc.oneof({ weight: 8, arbitrary: fc.nat({ max: 15 }) }, { weight: 1, arbitrary: fc.nat({ max: 0xffff }) }),
});
const index = fc.oneof(
  { weight: 8, arbitrary: fc.nat({ max: 17 }) },
  { weight: 1, arbitrary: fc.nat({ max: 0xffff }) },
);

export const virtqueue = structured(
  'virtqueue',
  fc.record({
    sizeBits: fc.nat({ max: 4 }),
    direction: fc.constantFrom('device-writes' as const, 'device-reads' as const),
    usesEventIndex: fc.boolean(),
    base: fc.oneof(fc.constant(0), fc.nat({ max: 0xffff })),
    steps: fc.array(fc.record({ available: index, change: fc.nat({ max: 15 }), descriptor }), { maxLength: 12 }),
    heads: fc.array(index, { minLength: 16, maxLength: 16 }),
    descriptors: fc.array(descriptor, { minLength: 16, maxLength: 16 }),
    isRemote: fc.boolean(),
  }),
  (input) => {
    const size = 2 ** input.sizeBits;
    const { isRemote } = input;
    const low = allocateNative(MEMORY_BYTES);
    const high = allocateNative(MEMORY_BYTES);
    const [lowBase, highBase] = isRemote ? [low.address, high.address] : [USER_BASE, USER_BASE + MEMORY_BYTES];
    const regions = [
      makeRegion(GUEST_BASE, lowBase, 0x1000_0000, low.buffer),
      makeRegion(HIGH_BASE, highBase, 0x7000_0000, high.buffer),
    ];
    const memory = isRemote ? remoteOwn(regions) : new MappedMemory(regions);
    const view = new DataView(low.buffer);
    const ring = new DriverRing(view, 0, size, lowBase);
    const write = (at: number, value: (typeof input.descriptors)[number]): void => {
      view.setBigUint64(16 * at, value.address, true);
      view.setUint32(16 * at + 8, value.length, true);
      view.setUint16(16 * at + 12, value.flags, true);
      view.setUint16(16 * at + 14, value.next, true);
    };
    for (let at = 0; at < size; at += 1) {
      const value = input.descriptors[at];
      if (value !== undefined) write(at, value);
      view.setUint16(16 * size + 4 + 2 * at, input.heads[at] ?? 0, true);
    }
    const queue = new Virtqueue(input.direction);
    const problem = queue.start(memory, ring.addresses, input.base, input.usesEventIndex);
    must(problem === undefined, `start: ${problem}`);
    for (const step of input.steps) {
      view.setUint16(16 * size + 2, (input.base + step.available) & 0xffff, true);
      const found = queue.peek(0);
      if (found === 'chain') {
        checkChain(queue, isRemote ? undefined : regions);
        const { head } = queue.chain;
        queue.peek(1);
        queue.consume(1);
        queue.complete(head, Math.min(7, queue.chain.bytes));
        must(queue.staged >= 1, 'a completion is staged');
        queue.prepareKickRequest();
        queue.publish();
      } else if (found === 'broken') {
        must(queue.problem !== undefined && queue.peek(0) === 'broken', 'broken is for good');
      }
      queue.suppressKicks();
      queue.requestKick();
      if (step.change < size) write(step.change, step.descriptor);
    }
    queue.stop();
    must(queue.peek(0) === 'empty', 'a stopped ring has nothing');
  },
);

/** @param regions undefined: the chain is a copy, which holds the longest packet */
function checkChain(queue: Virtqueue, regions: readonly MappedRegion[] | undefined): void {
  const { chain } = queue;
  must(chain.count <= SEGMENTS_MAX, 'too many pieces');
  let sum = 0;
  for (let at = 0; at < chain.count; at += 1) {
    const region = chain.region(at);
    const offset = chain.offsets[at] ?? -1;
    const bytes = chain.lengths[at] ?? -1;
    must(regions?.some((one) => one === region) ?? true, 'a piece of no region');
    const isInside = bytes > 0 && offset >= 0 && offset + bytes <= region.bytes.length;
    must(isInside, 'a piece beyond its region');
    sum += bytes;
  }
  const wanted = regions ? chain.bytes : Math.min(chain.bytes, HEADER_BYTES + PACKET_BYTES_MAX);
  must(sum === wanted, 'pieces do not add up');
}
