import { fstatSync, ftruncateSync, writeSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { MIB } from '../../../base/units.ts';
import { closeFd, createMemFd } from '../../../sys/fd.ts';
import { mapShared } from '../../../sys/memory.ts';
import { makeMemory } from './memory.ts';

const BYTES = 256 * MIB;
const PAGE_BYTES = 4096;

function touch(fd: number): void {
  const mapping = mapShared(fd, 0, BYTES);
  const bytes = new Uint8Array(mapping.buffer);
  for (let at = 0; at < BYTES; at += PAGE_BYTES) bytes[at] = 1;
  mapping.unmap();
}

/** CPU time of this thread in microseconds: other work of the machine does not count. */
function cpuOf(action: () => void): number {
  const start = process.threadCpuUsage();
  action();
  const { user, system } = process.threadCpuUsage(start);
  return user + system;
}

describe('makeMemory', () => {
  it.each([0, BYTES - PAGE_BYTES, BYTES + PAGE_BYTES])(
    'a VMM that has the memory can not resize it to %d bytes',
    (bytes) => {
      const memory = makeMemory(BYTES);
      expect(() => ftruncateSync(memory.fd, bytes)).toThrow('EPERM');
      expect(fstatSync(memory.fd).size).toBe(BYTES);
      memory.close();
    },
  );

  it('usedBytes: counts allocated pages, and none after close', () => {
    const memory = makeMemory(BYTES);
    expect(memory.usedBytes()).toBe(0);
    writeSync(memory.fd, Buffer.alloc(3 * PAGE_BYTES, 1), 0, 3 * PAGE_BYTES, PAGE_BYTES);
    expect(memory.usedBytes()).toBe(3 * PAGE_BYTES);
    memory.close();
    expect(memory.usedBytes()).toBe(0);
  });

  it('close: does not free the pages on the calling thread', () => {
    // The minimum of several runs: the others include other work of the thread, such as garbage collection.
    let [ours, plain] = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
    for (let turn = 0; turn < 3; turn += 1) {
      const memory = makeMemory(BYTES);
      touch(memory.fd);
      ours = Math.min(
        ours,
        cpuOf(() => memory.close()),
      );
      const fd = createMemFd('plain', BYTES);
      touch(fd);
      plain = Math.min(
        plain,
        cpuOf(() => closeFd(fd)),
      );
    }
    expect(ours / plain).toBeLessThan(0.5);
  });
});
