import { describe, it } from 'vitest';
import { runTarget } from '../../test/fuzz/regressions.ts';
import { vhostUser } from '../../test/fuzz/vhost-user.ts';
import { virtqueue } from '../../test/fuzz/virtqueue.ts';
import { vsockHandshake } from '../../test/fuzz/vsock-handshake.ts';
import { vsockMuxer, vsockStreams } from '../../test/fuzz/vsock-muxer.ts';
import { vsockPacket } from '../../test/fuzz/vsock-packet.ts';

describe('vsock properties', () => {
  it('packet: reads any bytes, and reads back what it writes', () => runTarget(vsockPacket));
  it('handshake: decides the same however the line is cut', () => runTarget(vsockHandshake));
  it('virtqueue: hostile rings end, inside memory', () => runTarget(virtqueue));
  it('vhost-user: hostile messages leak no descriptor, however cut', () => runTarget(vhostUser));
  it('muxer: a hostile guest does not disturb an honest connection', () => runTarget(vsockMuxer));
  it('muxer: every byte arrives once and in order', () => runTarget(vsockStreams));
});
