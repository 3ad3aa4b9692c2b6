import { afterAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { DriverRing, GUEST_BASE } from '../../../prove/vmm/guest-rings.ts';
import { closeFd } from '../../sys/fd.ts';
import { allocateNative } from '../../sys/memory.ts';
import { openProcessMemory } from '../../sys/process-memory.ts';
import { RemoteMemory } from './guest-memory.ts';
import { Scratch } from './scratch.ts';
import { Virtqueue } from './virtqueue.ts';

/** Actions of the guest before call number `call`, or when that call has copied a part. */
interface Meanwhile {
  readonly call: number;
  /** Length of the first part, and whether the kernel copies it first (arch/x86/lib/memcpy_64.S). */
  readonly cut: number;
  readonly isForward: boolean;
  act(): void;
}

let meanwhile: Meanwhile | undefined;
let calls = 0;

/** Splits the call in two parts, if it is the one that the guest interferes with. */
function interfere(copy: (from: number, bytes: number) => number, bytes: number): number {
  calls += 1;
  const now = meanwhile;
  if (now?.call !== calls) return copy(0, bytes);
  meanwhile = undefined;
  const cut = Math.min(now.cut, bytes);
  const parts = [() => (cut > 0 ? copy(0, cut) : 0), () => (cut < bytes ? copy(cut, bytes - cut) : 0)];
  if (!now.isForward) parts.reverse();
  const first = parts[0]?.() ?? 0;
  now.act();
  return first + (parts[1]?.() ?? 0);
}

vi.mock(import('../../sys/process-memory.ts'), async (original) => {
  const real = await original();
  return {
    ...real,
    readProcess: (fd, from, to, bytes) =>
      interfere((at, count) => real.readProcess(fd, from + at, to + at, count), bytes),
    writeProcess: (fd, from, to, bytes) =>
      interfere((at, count) => real.writeProcess(fd, from + at, to + at, count), bytes),
  };
});

const BYTES = 0x40000;
const UNMAPPED_BASE = GUEST_BASE + BYTES;
const SIZE = 8;
/** Offset in `DriverRing`. */
const AVAILABLE_AT = 16 * SIZE;
const USED_EVENT_AT = AVAILABLE_AT + 4 + 2 * SIZE;
const USED_AT = 0x6000;
const AVAILABLE_EVENT_AT = USED_AT + 4 + 8 * SIZE;
const fd = openProcessMemory(process.pid);
afterAll(() => closeFd(fd));
const { buffer, address } = allocateNative(BYTES);
const view = new DataView(buffer);

beforeEach(() => {
  meanwhile = undefined;
});

function remoteMemory() {
  const regions = [
    { guestAddress: GUEST_BASE, userAddress: address, size: BYTES },
    // Nothing is mapped there (vm.mmap_min_addr).
    { guestAddress: UNMAPPED_BASE, userAddress: 4096, size: 0x8000 },
  ];
  const scratch = new Scratch(BYTES);
  return { memory: new RemoteMemory(fd, regions, scratch), scratch };
}

function setUp(direction: 'device-writes' | 'device-reads', usesEventIndex: boolean) {
  new Uint8Array(buffer).fill(0);
  const { memory, scratch } = remoteMemory();
  const ring = new DriverRing(view, 0, SIZE, address);
  const queue = new Virtqueue(direction);
  expect(queue.start(memory, ring.addresses, 0, usesEventIndex)).toBeUndefined();
  calls = 0;
  return { ring, queue, scratch };
}

/** Takes all chains that are there now. */
function takeAll(queue: Virtqueue): { head: number; bytes: number }[] {
  const found: { head: number; bytes: number }[] = [];
  for (;;) {
    const peek = queue.peek(0);
    if (peek !== 'chain') {
      expect(peek).toBe('empty');
      return found;
    }
    const { head, bytes } = queue.chain;
    found.push({ head, bytes });
    queue.consume(1);
    queue.complete(head, 0);
  }
}

it.each([1, 2, 3])('takes a chain that the guest offers at any time during read %i', (call) => {
  for (let cut = 0; cut <= 16 * SIZE + 6 + 2 * SIZE; cut += 1) {
    for (const isForward of [true, false]) {
      const { ring, queue } = setUp('device-reads', false);
      ring.setDescriptor(0, GUEST_BASE + 0x8000, 44, 0, 0);
      ring.makeAvailable(0);
      // The previous entry at its place.
      ring.setDescriptor(3, GUEST_BASE + 0x9000, 9999, 0, 0);
      const act = (): void => {
        ring.setDescriptor(3, GUEST_BASE + 0x8000, 47, 0, 0);
        ring.makeAvailable(3);
      };
      meanwhile = { call, cut, isForward, act };
      const found = takeAll(queue);
      if (meanwhile !== undefined) act();
      meanwhile = undefined;
      found.push(...takeAll(queue));
      expect(found).toEqual([
        { head: 0, bytes: 44 },
        { head: 3, bytes: 47 },
      ]);
    }
  }
});

describe('RemoteRing with event indexes', () => {
  /** vring_need_event of Linux (include/uapi/linux/virtio_ring.h). */
  const isDue = (event: number, next: number, before: number): boolean =>
    ((next - event - 1) & 0xffff) < ((next - before) & 0xffff);

  it.each([
    ['the kick is asked for with the publication', 1, true],
    ['the kick is asked for after the publication', 1, false],
    ['nothing is published', 0, false],
  ])('a chain that comes at any time is found, or asks the guest to kick: %s', (_, first, isPrepared) => {
    let last = 1;
    let kicks = 0;
    let found = 0;
    for (let call = 1; call <= last; call += 1) {
      for (const cut of [0, 1e9]) {
        const { ring, queue } = setUp('device-reads', true);
        // The guest was not told to kick until then.
        view.setUint16(AVAILABLE_EVENT_AT, 0xfff0, true);
        expect(queue.relocate(remoteMemory().memory, ring.addresses)).toBeUndefined();
        for (const head of [0, 1]) ring.setDescriptor(head, GUEST_BASE + 0x8000, 44, 0, 0);
        if (first === 1) ring.makeAvailable(0);
        let isKicked = false;
        const act = (): void => {
          ring.makeAvailable(1);
          isKicked = isDue(view.getUint16(AVAILABLE_EVENT_AT, true), first + 1, first);
        };
        calls = 0;
        meanwhile = { call, cut, isForward: true, act };
        const taken = takeAll(queue).length;
        if (isPrepared) queue.prepareKickRequest();
        queue.publish();
        const isWaiting = queue.requestKick();
        last = calls;
        expect(meanwhile).toBeUndefined();
        expect(taken === first + 1 || isWaiting || isKicked).toBe(true);
        if (isKicked) kicks += 1;
        else found += 1;
        expect(view.getUint16(USED_AT + 2, true)).toBe(taken);
      }
    }
    expect(last).toBeGreaterThan(2);
    expect(Math.min(kicks, found)).toBeGreaterThan(0);
  });

  it('a guest that enables interrupts at any time is interrupted, or has seen the chains', () => {
    let last = 1;
    let interrupts = 0;
    for (let call = 1; call <= last; call += 1) {
      const { ring, queue } = setUp('device-reads', true);
      ring.setDescriptor(0, GUEST_BASE + 0x8000, 44, 0, 0);
      ring.makeAvailable(0);
      // Interrupts were disabled until then.
      view.setUint16(USED_EVENT_AT, 0xfff0, true);
      let hasSeen = false;
      const act = (): void => {
        view.setUint16(USED_EVENT_AT, 0, true);
        hasSeen = ring.takeUsed() !== undefined;
      };
      meanwhile = { call, cut: 0, isForward: true, act };
      takeAll(queue);
      queue.prepareKickRequest();
      const isInterrupted = queue.publish();
      queue.requestKick();
      last = calls;
      expect(meanwhile).toBeUndefined();
      expect(isInterrupted || hasSeen).toBe(true);
      if (isInterrupted) interrupts += 1;
    }
    expect(interrupts).toBeGreaterThan(0);
  });

  it('requests one kick, and looks once if nothing came', () => {
    const { ring, queue } = setUp('device-reads', true);
    ring.setDescriptor(0, GUEST_BASE + 0x8000, 44, 0, 0);
    ring.makeAvailable(0);
    const turn = (): number => {
      const before = calls;
      takeAll(queue);
      queue.prepareKickRequest();
      queue.publish();
      expect(queue.requestKick()).toBe(false);
      return calls - before;
    };
    // Index; chains; payload; elements; index; event of the guest.
    expect(turn()).toBe(6);
    expect(view.getUint16(AVAILABLE_EVENT_AT, true)).toBe(1);
    expect(turn()).toBe(1);
    ring.makeAvailable(0);
    expect(turn()).toBe(6);
    expect(view.getUint16(AVAILABLE_EVENT_AT, true)).toBe(2);
  });
});

describe('RemoteRing.storeUsedIndex', () => {
  const LENGTH = 20_000;

  /** Fills six buffers. @param unmapped the head of one that can not be written */
  function fill(unmapped?: number) {
    const { ring, queue, scratch } = setUp('device-writes', false);
    for (let head = 0; head < 6; head += 1) {
      const at = head === unmapped ? UNMAPPED_BASE : GUEST_BASE + 0x8000 + head * LENGTH;
      ring.setDescriptor(head, at, LENGTH, 2, 0);
      ring.makeAvailable(head);
    }
    for (let head = 0; head < 6; head += 1) {
      expect(queue.peek(head)).toBe('chain');
      const { chain } = queue;
      chain.region(0).bytes.fill(head + 1, chain.offsets[0], (chain.offsets[0] ?? 0) + LENGTH);
    }
    queue.consume(6);
    for (let head = 0; head < 6; head += 1) queue.complete(head, LENGTH);
    return { ring, queue, scratch };
  }

  const isFilled = (head: number): boolean =>
    new Uint8Array(buffer, 0x8000 + head * LENGTH, LENGTH).every((byte) => byte === head + 1);
  const shown = (): number => view.getUint16(USED_AT + 2, true);

  it('shows the first chains before the last ones are copied, each after its bytes', () => {
    const seen = new Set<number>();
    let last = 1;
    for (let call = 1; call <= last; call += 1) {
      const { ring, queue } = fill();
      calls = 0;
      let taken = 0;
      const act = (): void => {
        seen.add(shown());
        for (; taken < shown(); taken += 1) {
          expect(ring.takeUsed()).toEqual({ head: taken, written: LENGTH });
          expect(isFilled(taken)).toBe(true);
        }
      };
      meanwhile = { call, cut: 0, isForward: true, act };
      queue.publish();
      last = calls;
      expect(queue.staged).toBe(0);
      act();
    }
    // 32 KiB, then 64 KiB.
    expect([...seen].sort()).toEqual([0, 2, 6]);
  });

  it('shows no chains from the first unwritable part on', () => {
    const { queue } = fill(3);
    // The guest is interrupted for the chains that it got.
    expect(queue.publish()).toBe(true);
    expect(queue.staged).toBe(0);
    expect(queue.peek(0)).toBe('broken');
    expect(queue.problem).toMatch(/^memory that can not be written/);
    expect(shown()).toBe(2);
    expect([0, 1, 2, 4, 5].map(isFilled)).toEqual([true, true, true, false, false]);
  });

  it('writes nothing after another ring has taken the memory', () => {
    const { queue, scratch } = fill();
    scratch.begin({});
    expect(queue.publish()).toBe(false);
    expect(queue.problem).toBe('chains were kept too long');
    expect(shown()).toBe(0);
    expect([0, 1, 2, 3, 4, 5].some(isFilled)).toBe(false);
  });
});
