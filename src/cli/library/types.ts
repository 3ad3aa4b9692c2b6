/** The types of values that the library takes and returns, beside its own classes. */
export type { Received } from '../../artifacts/transfer/copy-out.ts';
export type { TransferOptions } from '../../artifacts/transfer/transfer.ts';
export type { ChannelLimits, ChannelStats } from '../../base/channel.ts';
export type { ProgressEvent } from '../../base/progress.ts';
export type { DiskLimits } from '../../base/request/disk-limits.ts';
export type { SecretPlace } from '../../base/request/secret-place.ts';
export type { UsageRecord } from '../../inference/bridge/bridge.ts';
export type {
  EndedProcess,
  FileEntry,
  GuestFiles,
  GuestStats,
  KeptOutput,
  OomVictim,
  OutputOffsets,
  Process,
  ProcessExit,
  ProcessInfo,
} from '../../machine/guest/link.ts';
export type {
  EventsOptions,
  ForkOptions,
  MemoryAction,
  NetworkInfo,
  SandboxInfo,
  SandboxStatus,
  SnapshotInfo,
} from '../../sandbox/contract/control.ts';
export type { EndCause, EndEvidence, SandboxEnd, SandboxLogs } from '../../sandbox/contract/ending.ts';
export type { TimedEvent } from '../../sandbox/contract/events.ts';
export type { ModelPolicy } from '../../sandbox/contract/model-policy.ts';
export type { NetworkLimits, NetworkOptions } from '../../sandbox/contract/network-spec.ts';
export type { PackageInfo, PackageOptions } from '../../sandbox/contract/packages.ts';
export type { StartTimings } from '../../sandbox/contract/parts.ts';
export type {
  RequestHeaderOptions,
  SecretInfo,
  SecretOptions,
} from '../../sandbox/contract/secrets.ts';
export type { SandboxOptions } from '../../sandbox/contract/spec.ts';
export type { DaemonChoice, HostOptions } from './host.ts';
export type {
  BufferOptions,
  CreateOptions,
  ListOptions,
  RunOptions,
  RunResult,
  TextOptions,
  UploadOptions,
} from './options.ts';
export type { PortForward } from './port-forward.ts';
