/** RAM of guests as memfds: without a name, outside any file system, and freed with the last descriptor. */
import type { GuestMemory } from '../../../sandbox/contract/parts.ts';
import { closeInPool, createMemFd, sealSize, usedBytes } from '../../../sys/fd.ts';

/** Only touched pages use memory. @throws SyscallError */
export function makeMemory(bytes: number): GuestMemory {
  const fd = createMemFd('guest-ram', bytes);
  // Our vsock device maps it: a compromised VMM must not be able to shrink it under us, nor make us touch, and so pay
  // for, more pages than its guest has.
  sealSize(fd);
  return memoryOf(fd);
}

/** RAM of a VM that was taken over. @param fd a memfd, owned by the result */
export function adoptedMemory(fd: number): GuestMemory {
  return memoryOf(fd);
}

/** An empty file in memory, which grows as it is written. @throws SyscallError */
export function makeScratch(): GuestMemory {
  return memoryOf(createMemFd('scratch', 0));
}

function memoryOf(fd: number): GuestMemory {
  let open = true;
  return {
    fd,
    path: `/proc/self/fd/${fd}`,
    usedBytes: () => (open ? usedBytes(fd) : 0),
    close() {
      // Freeing its pages on this thread would hold up the answers of all sandboxes.
      if (open) void closeInPool(fd);
      open = false;
    },
  };
}
