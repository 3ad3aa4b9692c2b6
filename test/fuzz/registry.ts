/** Every fuzz target by name. A new one needs its line here and a run in a `.prop.ts` beside the code. */
import fc from 'fast-check';
import { clientHello } from './client-hello.ts';
import { dns } from './dns.ts';
import { httpHead } from './http-head.ts';
import { netlink } from './netlink.ts';
import { requestPath } from './request-path.ts';
import { seccomp } from './seccomp.ts';
import { must, target } from './target.ts';
import { vhostUser } from './vhost-user.ts';
import { virtqueue } from './virtqueue.ts';
import { vsockHandshake } from './vsock-handshake.ts';
import { vsockMuxer, vsockStreams } from './vsock-muxer.ts';
import { vsockPacket } from './vsock-packet.ts';

export const FUZZ_TARGETS = [
  vsockPacket,
  vsockHandshake,
  virtqueue,
  vhostUser,
  vsockMuxer,
  vsockStreams,
  dns,
  clientHello,
  httpHead,
  requestPath,
  netlink,
  seccomp,
];

/** Fails by design: proves that the tool notices a failure. */
export const canary = target('canary', 100, fc.nat({ max: 1000 }), (value) =>
  must(value < 900, `${value} is not below 900`),
);
