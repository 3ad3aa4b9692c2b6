/** RAM of guests: memfds, so it has no name, counts for nobody's file system, and goes with its last user. */
import type { GuestMemory } from '../sandbox/parts.ts';
import { closeFd, createMemFd, sealShrink } from '../sys/fd.ts';

/** Touched pages are what it costs. @throws SyscallError */
export function makeMemory(bytes: number): GuestMemory {
  const fd = createMemFd('guest-ram', bytes);
  // Our vsock device maps it: a VMM that was taken over must not be able to pull it away under us.
  sealShrink(fd);
  let open = true;
  return {
    fd,
    path: `/proc/self/fd/${fd}`,
    close() {
      if (open) closeFd(fd);
      open = false;
    },
  };
}
