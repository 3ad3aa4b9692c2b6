/** The ways into the sandboxes of the control plane in memory: to their agents, and to ports of this machine. */
import { once } from 'node:events';
import { connect } from 'node:net';
import { SandboxError } from '../../src/sandbox/contract/errors.ts';
import type { GuestAccess } from '../../src/sandbox/contract/guest-access.ts';
import type { FakeSandboxes } from './fake-sandboxes.ts';

export const fakeGuestAccess = ({ before, live, awake }: FakeSandboxes): GuestAccess => ({
  guest: async (id) => {
    before('guest');
    return (await awake(id)).guest;
  },
  /** Through what a test has in the place of `guest`. */
  async reader(id) {
    before('reader');
    return await this.guest(id);
  },
  openOperation: async (id) => {
    before('openOperation');
    const { channelPath } = await awake(id);
    const { operations } = live(id);
    const stream = connect({ path: channelPath, allowHalfOpen: true });
    operations.add(stream);
    stream.on('close', () => operations.delete(stream));
    stream.write('CONNECT 5000\n');
    return stream;
  },
  /** Opens a port of this machine's loopback, as if that were the sandbox's card. */
  openPort: async (id, port) => {
    before('openPort');
    await awake(id);
    const stream = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
    await once(stream, 'connect').catch((cause: unknown) => {
      throw new SandboxError('port_unreachable', `port ${port} of the sandbox's card`, { cause });
    });
    return stream;
  },
});
