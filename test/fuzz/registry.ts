/** Every fuzz target in TypeScript by name. A target is imported when it runs, so that only what it checks is instrumented. */
import type { FuzzTarget } from './target.ts';

type Load = () => Promise<FuzzTarget>;

export const TARGETS: Readonly<Record<string, Load>> = {
  'bpf-events': async () => (await import('./bpf-events.ts')).bpfEvents,
  'client-hello': async () => (await import('./client-hello.ts')).clientHello,
  'connect-frames': async () => (await import('./connect-frames.ts')).connectFrames,
  'copy-out': async () => (await import('./copy-out.ts')).copyOutOf,
  dockerfile: async () => (await import('./dockerfile.ts')).dockerfile,
  'dns-tcp': async () => (await import('./dns-tcp.ts')).dnsTcp,
  dns: async () => (await import('./dns.ts')).dns,
  'egress-rules': async () => (await import('./egress-rules.ts')).egressRules,
  'engine-requests': async () => (await import('./engine-requests.ts')).engineRequests,
  'firecracker-answers': async () => (await import('./firecracker-answers.ts')).firecrackerAnswers,
  'firecracker-line': async () => (await import('./firecracker-line.ts')).firecrackerLine,
  'firecracker-metrics': async () => (await import('./firecracker-metrics.ts')).firecrackerMetrics,
  gguf: async () => (await import('./gguf.ts')).gguf,
  'guest-files': async () => (await import('./guest-files.ts')).guestFiles,
  'guest-messages': async () => (await import('./guest-messages.ts')).guestMessages,
  'guest-wire': async () => (await import('./guest-wire.ts')).guestWire,
  'hello-retry': async () => (await import('./hello-retry.ts')).helloRetry,
  'http-head': async () => (await import('./http-head.ts')).httpHead,
  'http-responses': async () => (await import('./http-responses.ts')).httpResponses,
  'http-smuggling': async () => (await import('./http-smuggling.ts')).httpSmuggling,
  'image-documents': async () => (await import('./image-documents.ts')).imageDocuments,
  'image-references': async () => (await import('./image-references.ts')).imageReferences,
  'image-verdicts': async () => (await import('./image-verdicts.ts')).imageVerdicts,
  'json-body': async () => (await import('./json-body.ts')).jsonBody,
  'model-manifests': async () => (await import('./gguf.ts')).modelManifests,
  'multipart-upload': async () => (await import('./multipart-upload.ts')).multipartUpload,
  netlink: async () => (await import('./netlink.ts')).netlink,
  otlp: async () => (await import('./otlp.ts')).otlp,
  'package-pages': async () => (await import('./package-pages.ts')).packagePages,
  'package-requests': async () => (await import('./package-requests.ts')).packageRequests,
  qmp: async () => (await import('./qmp.ts')).qmp,
  'ram-difference': async () => (await import('./ram-difference.ts')).ramDifference,
  'request-path': async () => (await import('./request-path.ts')).requestPath,
  'seccomp-records': async () => (await import('./seccomp-records.ts')).seccompRecords,
  seccomp: async () => (await import('./seccomp.ts')).seccomp,
  review: async () => (await import('./review.ts')).review,
  'secret-requests': async () => (await import('./secret-requests.ts')).secretRequests,
  'secret-responses': async () => (await import('./secret-responses.ts')).secretResponses,
  'secret-websocket': async () => (await import('./secret-websocket.ts')).secretWebsocket,
  sse: async () => (await import('./sse.ts')).sse,
  'transcription-form': async () => (await import('./transcription-form.ts')).transcriptionForm,
  'upstream-answers': async () => (await import('./upstream-answers.ts')).upstreamAnswers,
  'vhost-user': async () => (await import('./vhost-user.ts')).vhostUser,
  virtqueue: async () => (await import('./virtqueue.ts')).virtqueue,
  'vsock-handshake': async () => (await import('./vsock-handshake.ts')).vsockHandshake,
  'vsock-muxer': async () => (await import('./vsock-muxer.ts')).vsockMuxer,
  'vsock-packet': async () => (await import('./vsock-packet.ts')).vsockPacket,
  'vsock-streams': async () => (await import('./vsock-muxer.ts')).vsockStreams,
};

/** They fail by design: that coverage guides the fuzzer, and that a hang is noticed. */
export const CANARY = 'canary';
export const HANGING_CANARY = 'canary-hang';

/** @throws if there is no such target */
export async function loadTarget(name: string): Promise<FuzzTarget> {
  const load = TARGETS[name];
  if (load !== undefined) return await load();
  const { canary, hangingCanary } = await import('./canary.ts');
  if (name === CANARY) return canary;
  if (name === HANGING_CANARY) return hangingCanary;
  throw new Error(`no fuzz target "${name}"`);
}
