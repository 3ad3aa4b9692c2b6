import { describe, expect, it } from 'vitest';
import { DriverRing, GUEST_BASE, USER_BASE } from '../../../prove/vmm/guest-rings.ts';
import { MappedMemory, makeRegion } from './guest-memory.ts';
import { Virtqueue } from './virtqueue.ts';

const BYTES = 0x10000;
const NEXT = 1;
const WRITE = 2;

function setUp(direction: 'device-writes' | 'device-reads', usesEventIndex = false, base = 0) {
  const buffer = new ArrayBuffer(BYTES);
  const memory = new MappedMemory([makeRegion(GUEST_BASE, USER_BASE, 0x1000, buffer)]);
  const view = new DataView(buffer);
  const ring = new DriverRing(view, 0, 8);
  const queue = new Virtqueue(direction);
  expect(queue.start(memory, ring.addresses, base, usesEventIndex)).toBeUndefined();
  return { ring, queue, view, memory };
}

describe('Virtqueue.peek', () => {
  it('walks a chain of several buffers', () => {
    const { ring, queue } = setUp('device-reads');
    ring.setDescriptor(3, GUEST_BASE + 0x8000, 44, NEXT, 5);
    ring.setDescriptor(5, GUEST_BASE + 0x9000, 100, 0, 0);
    ring.makeAvailable(3);
    expect(queue.peek(0)).toBe('chain');
    expect(queue.chain).toMatchObject({ head: 3, count: 2, bytes: 144 });
    expect([...queue.chain.offsets.subarray(0, 2)]).toEqual([0x8000, 0x9000]);
    expect(queue.peek(1)).toBe('empty');
  });

  it.each([
    ['a loop', 1, NEXT, GUEST_BASE, 4],
    ['a descriptor beyond the table', 1, NEXT | 0, GUEST_BASE, 4, 9],
    ['an indirect table, which was not offered', 1, 4, GUEST_BASE, 4],
    ['a buffer for the other direction', 1, WRITE, GUEST_BASE, 4],
    ['memory below the region', 1, 0, GUEST_BASE - 1, 4],
    ['memory that ends one byte too far', 1, 0, GUEST_BASE + BYTES - 3, 4],
    ['an address that wraps round', 1, 0, Number.MAX_SAFE_INTEGER - 1, 0xffffffff],
  ])('breaks at %s, permanently', (_name, head, flags, address, length, next = head) => {
    const { ring, queue, view } = setUp('device-reads');
    ring.setDescriptor(head, address, length, flags, next);
    view.setUint16(16 * head + 14, next, true);
    ring.makeAvailable(head);
    expect(queue.peek(0)).toBe('broken');
    expect(queue.problem).not.toBeUndefined();
    ring.setDescriptor(head, GUEST_BASE, 4, 0, 0);
    expect(queue.peek(0)).toBe('broken');
  });

  it('breaks when more chains are offered than the ring has', () => {
    const { queue, view } = setUp('device-reads');
    view.setUint16(16 * 8 + 2, 9, true);
    expect(queue.peek(0)).toBe('broken');
  });

  it('cuts a buffer where two regions meet', () => {
    const low = makeRegion(GUEST_BASE, USER_BASE, 0x1000, new ArrayBuffer(BYTES));
    const highBuffer = new ArrayBuffer(BYTES);
    const high = makeRegion(GUEST_BASE + BYTES, USER_BASE + BYTES, 0x900000, highBuffer);
    const memory = new MappedMemory([low, high]);
    const ring = new DriverRing(low.view, 0, 8);
    const queue = new Virtqueue('device-reads');
    queue.start(memory, ring.addresses, 0, false);
    ring.setDescriptor(0, GUEST_BASE + BYTES - 10, 30, 0, 0);
    ring.makeAvailable(0);
    expect(queue.peek(0)).toBe('chain');
    expect([...queue.chain.lengths.subarray(0, 2)]).toEqual([10, 20]);
    expect(queue.chain.region(1)).toBe(high);
  });
});

describe('Virtqueue.start', () => {
  it.each([
    ['a size that is no power of two', { size: 6 }, 'size'],
    ['size 0', { size: 0 }, 'size'],
    ['a size beyond the limit', { size: 2048 }, 'size'],
    ['a table outside', { descriptors: USER_BASE + BYTES - 64 }, 'descriptor table outside memory'],
    ['an available ring outside', { available: USER_BASE - 2 }, 'available ring outside memory'],
    ['a used ring outside', { used: USER_BASE + BYTES - 4 }, 'used ring outside memory'],
    ['a misaligned table', { descriptors: USER_BASE + 8 }, 'misaligned'],
    ['a misaligned used ring', { used: USER_BASE + 0x6002 }, 'misaligned'],
  ])('refuses %s', (_name, change, problem) => {
    const { ring, queue, memory } = setUp('device-reads');
    queue.stop();
    expect(queue.start(memory, { ...ring.addresses, ...change }, 0, false)).toBe(problem);
    expect(queue.isRunning).toBe(false);
  });

  it('continues from the given base, across the wrap of the index', () => {
    const { ring, queue, view } = setUp('device-reads', false, 0xffff);
    view.setUint16(16 * 8 + 2, 0xffff, true);
    expect(queue.peek(0)).toBe('empty');
    ring.setDescriptor(2, GUEST_BASE, 4, 0, 0);
    view.setUint16(16 * 8 + 4 + 2 * 7, 2, true);
    view.setUint16(16 * 8 + 2, 0, true);
    expect(queue.peek(0)).toBe('chain');
    queue.consume(1);
    expect(queue.availableIndex).toBe(0);
  });
});

describe('Virtqueue.publish', () => {
  const completeOne = (queue: Virtqueue): boolean => {
    queue.complete(0, 1);
    return queue.publish();
  };

  it('shows completions only when published', () => {
    const { ring, queue } = setUp('device-writes');
    queue.complete(4, 17);
    expect(ring.takeUsed()).toBeUndefined();
    expect(queue.staged).toBe(1);
    queue.publish();
    expect(ring.takeUsed()).toEqual({ head: 4, written: 17 });
    expect(queue.publish()).toBe(false);
  });

  it('wants an interrupt unless the guest set NO_INTERRUPT', () => {
    const { queue, view } = setUp('device-writes');
    expect(completeOne(queue)).toBe(true);
    view.setUint16(16 * 8, 1, true);
    expect(completeOne(queue)).toBe(false);
  });

  it('with EVENT_IDX requests one exactly when used_event is passed', () => {
    const { queue, view } = setUp('device-writes', true);
    const usedEventAt = 16 * 8 + 4 + 2 * 8;
    view.setUint16(usedEventAt, 1, true);
    expect(completeOne(queue)).toBe(false);
    expect(completeOne(queue)).toBe(true);
    expect(completeOne(queue)).toBe(false);
    view.setUint16(usedEventAt, 4, true);
    queue.complete(0, 1);
    queue.complete(0, 1);
    queue.complete(0, 1);
    expect(queue.publish()).toBe(true);
  });

  it('requestKick: asks for the next chain, and reports one that came meanwhile', () => {
    for (const usesEventIndex of [false, true]) {
      const { ring, queue } = setUp('device-reads', usesEventIndex);
      queue.suppressKicks();
      expect(queue.requestKick()).toBe(false);
      ring.setDescriptor(0, GUEST_BASE, 4, 0, 0);
      ring.makeAvailable(0);
      expect(queue.requestKick()).toBe(true);
    }
  });
});
