/** A vsock device that accepts QEMU's connection and says nothing, for tests in which QEMU does not need more. */
import { createServer, type Server } from 'node:net';
import type { AttachVsock } from '../../src/machine/vmm/attach-vsock.ts';
import { closeFd } from '../../src/sys/fd.ts';

/** @param told called each time a VM is attached or detached */
export function muteVsock(told: (what: 'attached' | 'detached') => void): AttachVsock {
  return async ({ vhostSocketPath }) => {
    told('attached');
    const server = await listen(vhostSocketPath);
    return {
      setLimits: () => Promise.resolve(),
      setProcessMemory: closeFd,
      stats: () => Promise.reject(new Error('not asked for here')),
      detach: async () => {
        told('detached');
        await new Promise((resolve) => server.close(resolve));
      },
    };
  };
}

function listen(path: string): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => {
      socket.on('error', () => socket.destroy());
      socket.resume();
    });
    server.once('error', reject);
    server.listen(path, () => resolve(server));
  });
}
