/** Memory outside the JavaScript heap: buffers that system calls fill, and mappings of files. */
import koffi from 'koffi';
import { check, libc } from './libc.ts';

const cMmap = libc.func('intptr_t mmap(uintptr_t at, size_t bytes, int protection, int flags, int fd, int64_t offset)');
const cMunmap = libc.func('int munmap(uintptr_t at, size_t bytes)');

const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_NORESERVE = 0x4000;

export const PAGE_BYTES = 4096;

/** Zeroed memory at an address that never changes; lives as long as `buffer` is referenced. */
interface NativeBuffer {
  readonly address: number;
  readonly buffer: ArrayBuffer;
}

/** An `ArrayBuffer` (unlike a small typed array) is never moved by the garbage collector. */
export function allocateNative(bytes: number): NativeBuffer {
  const buffer = new ArrayBuffer(bytes);
  return { buffer, address: Number(koffi.address(buffer)) };
}

/** A shared mapping of a file. Touching `buffer` after `unmap` is a segmentation fault: drop it before. */
export interface Mapping {
  readonly address: number;
  readonly bytes: number;
  readonly buffer: ArrayBuffer;
  unmap(): void;
}

/**
 * Maps `bytes` of `fd` from `offset`, readable and writable. The caller keeps the fd, and may close it at once.
 * `offset` need not be aligned to a page.
 *
 * If the file shrinks later, the next access is a SIGBUS, which ends the process. Only seals (F_SEAL_SHRINK) or trust
 * in the file's owner prevent that.
 * @throws SyscallError
 */
export function mapShared(fd: number, offset: number, bytes: number): Mapping {
  const lead = offset % PAGE_BYTES;
  const length = bytes + lead;
  const flags = MAP_SHARED | MAP_NORESERVE;
  const base = check(cMmap(0, length, PROT_READ_WRITE, flags, fd, offset - lead), `mmap fd ${fd}`);
  let mapped = true;
  return {
    address: base + lead,
    bytes,
    buffer: koffi.view(base + lead, bytes),
    unmap() {
      if (!mapped) return;
      mapped = false;
      check(cMunmap(base, length), 'munmap');
    },
  };
}

const addresses = new WeakMap<ArrayBuffer, number>();

/** The address of an `ArrayBuffer`, which must stay referenced while the address is in use. */
export function addressOf(buffer: ArrayBuffer): number {
  let address = addresses.get(buffer);
  if (address === undefined) {
    address = Number(koffi.address(buffer));
    addresses.set(buffer, address);
  }
  return address;
}
