/** Every fuzz target by name. A target is imported when it runs, so that only what it checks is instrumented. */
import type { FuzzTarget } from './target.ts';

type Load = () => Promise<FuzzTarget>;

export const TARGETS: Readonly<Record<string, Load>> = {
  'client-hello': async () => (await import('./client-hello.ts')).clientHello,
  dns: async () => (await import('./dns.ts')).dns,
  'http-head': async () => (await import('./http-head.ts')).httpHead,
  netlink: async () => (await import('./netlink.ts')).netlink,
  'request-path': async () => (await import('./request-path.ts')).requestPath,
  seccomp: async () => (await import('./seccomp.ts')).seccomp,
  'vhost-user': async () => (await import('./vhost-user.ts')).vhostUser,
  virtqueue: async () => (await import('./virtqueue.ts')).virtqueue,
  'vsock-handshake': async () => (await import('./vsock-handshake.ts')).vsockHandshake,
  'vsock-muxer': async () => (await import('./vsock-muxer.ts')).vsockMuxer,
  'vsock-packet': async () => (await import('./vsock-packet.ts')).vsockPacket,
  'vsock-streams': async () => (await import('./vsock-muxer.ts')).vsockStreams,
};

/** Fails by design: shows that coverage guides the fuzzer. */
export const CANARY = 'canary';

/** @throws if there is no such target */
export function loadTarget(name: string): Promise<FuzzTarget> {
  const load = TARGETS[name];
  if (load !== undefined) return load();
  if (name === CANARY) return import('./canary.ts').then(({ canary }) => canary);
  throw new Error(`no fuzz target "${name}"`);
}
