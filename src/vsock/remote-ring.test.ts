import { beforeEach, expect, it, vi } from 'vitest';
import { DriverRing, GUEST_BASE } from '../../test/support/guest-rings.ts';
import { closeFd } from '../sys/fd.ts';
import { allocateNative } from '../sys/memory.ts';
import { openProcessMemory } from '../sys/process-memory.ts';
import { RemoteMemory } from './guest-memory.ts';
import { Scratch } from './scratch.ts';
import { Virtqueue } from './virtqueue.ts';

/** What the guest does while a copy of more than a word is under way. */
let meanwhile: (() => void) | undefined;

vi.mock(import('../sys/process-memory.ts'), async (original) => {
  const real = await original();
  return {
    ...real,
    // The kernel may copy the end first (arch/x86/lib/memcpy_64.S, `.Lcopy_backward`).
    readProcess(fd, from, to, bytes) {
      if (bytes <= 8 || meanwhile === undefined) return real.readProcess(fd, from, to, bytes);
      const end = real.readProcess(fd, from + 4, to + 4, bytes - 4);
      meanwhile();
      meanwhile = undefined;
      return 4 + end === bytes ? end + real.readProcess(fd, from, to, 4) : -1;
    },
  };
});

beforeEach(() => {
  meanwhile = undefined;
});

it('takes the chain that the guest made available while the ring was copied', () => {
  const bytes = 0x10000;
  const { buffer, address } = allocateNative(bytes);
  const fd = openProcessMemory(process.pid);
  const region = { guestAddress: GUEST_BASE, userAddress: address, size: bytes };
  const memory = new RemoteMemory(fd, [region], new Scratch(bytes));
  const ring = new DriverRing(new DataView(buffer), 0, 8, address);
  const queue = new Virtqueue('device-reads');
  expect(queue.start(memory, ring.addresses, 0, false)).toBeUndefined();
  for (const head of [0, 3]) ring.setDescriptor(head, GUEST_BASE + 0x8000, 44 + head, 0, 0);
  const offer = (): void => ring.makeAvailable(3);
  meanwhile = offer;
  const found = queue.peek(0);
  // Copies of single words leave the guest no such moment.
  if (meanwhile !== undefined) offer();
  meanwhile = undefined;
  expect(found === 'chain' || queue.peek(0) === 'chain').toBe(true);
  expect(queue.chain).toMatchObject({ head: 3, bytes: 47 });
  closeFd(fd);
});
