/**
 * Hostile rings: any descriptors, any indices, changed while they are walked. Every chain that comes out
 * lies in memory, and every walk ends.
 */
import fc from 'fast-check';
import { GuestMemory, makeRegion } from '../../src/vsock/guest-memory.ts';
import { SEGMENTS_MAX } from '../../src/vsock/limits.ts';
import { Virtqueue } from '../../src/vsock/virtqueue.ts';
import { DriverRing, GUEST_BASE, USER_BASE } from '../support/guest-rings.ts';
import { must, structured } from './target.ts';

const MEMORY_BYTES = 0x10000;
const HIGH_BASE = GUEST_BASE + MEMORY_BYTES;

const near = (value: number) => fc.integer({ min: -40, max: 40 }).map((delta) => value + delta);
const address = fc.oneof(
  fc.integer({ min: GUEST_BASE, max: GUEST_BASE + 3 * MEMORY_BYTES }).map(BigInt),
  fc.oneof(near(GUEST_BASE), near(HIGH_BASE), near(HIGH_BASE + MEMORY_BYTES)).map(BigInt),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
);
const length = fc.oneof(
  fc.nat({ max: 5000 }),
  fc.constantFrom(0, 1, 44, 0xffffffff),
  fc.nat({ max: 0xffffffff }),
);
const descriptor = fc.record({
  address,
  length,
  flags: fc.oneof(
    { weight: 8, arbitrary: fc.nat({ max: 3 }) },
    { weight: 1, arbitrary: fc.nat({ max: 0xffff }) },
  ),
  next: fc.oneof(
    { weight: 8, arbitrary: fc.nat({ max: 15 }) },
    { weight: 1, arbitrary: fc.nat({ max: 0xffff }) },
  ),
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
    steps: fc.array(fc.record({ available: index, change: fc.nat({ max: 15 }), descriptor }), {
      maxLength: 12,
    }),
    heads: fc.array(index, { minLength: 16, maxLength: 16 }),
    descriptors: fc.array(descriptor, { minLength: 16, maxLength: 16 }),
  }),
  (input) => {
    const size = 2 ** input.sizeBits;
    const low = new ArrayBuffer(MEMORY_BYTES);
    const memory = new GuestMemory([
      makeRegion(GUEST_BASE, USER_BASE, 0x1000_0000, low),
      makeRegion(HIGH_BASE, USER_BASE + MEMORY_BYTES, 0x7000_0000, new ArrayBuffer(MEMORY_BYTES)),
    ]);
    const view = new DataView(low);
    const ring = new DriverRing(view, 0, size);
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
        checkChain(queue, memory);
        const { head } = queue.chain;
        queue.peek(1);
        queue.consume(1);
        queue.complete(head, 7);
        must(queue.staged >= 1, 'a completion is staged');
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

function checkChain(queue: Virtqueue, memory: GuestMemory): void {
  const { chain } = queue;
  must(chain.count <= SEGMENTS_MAX, 'too many pieces');
  let sum = 0;
  for (let at = 0; at < chain.count; at += 1) {
    const region = chain.region(at);
    const offset = chain.offsets[at] ?? -1;
    const bytes = chain.lengths[at] ?? -1;
    must(memory.regions.includes(region), 'a piece of no region');
    must(bytes > 0 && offset >= 0 && offset + bytes <= region.size, 'a piece beyond its region');
    sum += bytes;
  }
  must(sum === chain.bytes, 'pieces do not add up');
}
